/* softmax_rows.h: cross_entropy.h with vectors that run over rows instead of classes.
 *
 * For few classes, and for classes that do not lie side by side (images of shape (N, C, H, W)).
 * A group of rows is decoded into tiles of `depth` classes by `n` rows, the rows side by side:
 * element (k, r) is tile[k * n + r]. Sums over k have the lanes and the tree of lanes.h, so the
 * bits are those of cross_entropy.h. */

enum { FN(GROUP_TILE) = 2048, FN(MOST_ROWS) = 64, FN(FEWEST_ROWS) = 16 };

/* Up to how many classes a row is not worth vectors of its own. */
enum { FN(FEW_CLASSES) = 96 };

/* Consecutive rows, and what is known of each. */
typedef struct {
    size_t first, n, depth; /* first row, number of rows, classes in a tile */
    int spikes;             /* every row is one, or ignored: see classes.h */
    int64_t label[FN(MOST_ROWS)];
    double height[FN(MOST_ROWS)]; /* of a spike; 0 if ignored */
    uint8_t ignored[FN(MOST_ROWS)];
    REAL top[FN(MOST_ROWS)];
    /* sum exp(x - top), sum t, sum t (x - top): by lanes, in the end in lane 0 */
    double total[INSTEP_LANES][FN(MOST_ROWS)];
    double mass[INSTEP_LANES][FN(MOST_ROWS)], dot[INSTEP_LANES][FN(MOST_ROWS)];
    double ratio[FN(MOST_ROWS)], value[FN(MOST_ROWS)];
} FN(row_group);

/* ---- what a group is --------------------------------------------------------------------------
 */

static void FN(read_labels)(FN(row_group) * group, const instep_loss_views *views)
{
    const double *weight = views->class_weight;
    load_labels(group->label, &views->target, group->first, group->n);
    for (size_t r = 0; r < group->n; ++r) {
        const int64_t label = group->label[r];
        group->ignored[r] = (uint8_t)is_ignored(views, label);
        group->height[r] = group->ignored[r] ? 0 : weight ? weight[label] : 1;
    }
}

/* Choose the rows from `first` on that make a group: in one run of pred and of the gradient. */
static void FN(start_group)(FN(row_group) * group, const instep_loss_views *views, size_t first,
                            size_t count)
{
    size_t n = FN(GROUP_TILE) / views->classes;
    if (n < FN(FEWEST_ROWS)) n = FN(FEWEST_ROWS);
    if (n > FN(MOST_ROWS)) n = FN(MOST_ROWS);
    if (n > count) n = count;
    n = instep_view_run(&views->pred, first, n);
    n = instep_view_run(&views->gradient, first, n);
    group->first = first;
    group->n = n;
    group->depth = FN(GROUP_TILE) / n < views->classes ? FN(GROUP_TILE) / n : views->classes;
    group->spikes = views->labels && views->label_smoothing == 0;
    if (views->labels) FN(read_labels)(group, views);
    else memset(group->ignored, 0, n);
}

/* Classes in the tile that begins at class `start`. */
static inline size_t FN(depth_at)(const FN(row_group) * group, size_t classes, size_t start)
{
    return group->depth < classes - start ? group->depth : classes - start;
}

/* ---- tiles ------------------------------------------------------------------------------------
 */

/* tile = what `view` holds of classes [start, start + depth), `step` bytes from class to class. */
static void FN(load_group)(REAL *restrict tile, const instep_view *view, intptr_t step,
                           const FN(row_group) * group, size_t start, size_t depth)
{
    const char *at = instep_view_at(view, group->first) + (intptr_t)start * step;
    for (size_t k = 0; k < depth; ++k)
        FN(load_run)(tile + k * group->n, at + (intptr_t)k * step, view->stride, group->n,
                     (instep_dtype)view->dtype);
}

static void FN(store_group)(const REAL *restrict tile, const instep_loss_views *views,
                            const FN(row_group) * group, size_t start, size_t depth)
{
    const intptr_t step = views->gradient_step;
    char *at = instep_view_at(&views->gradient, group->first) + (intptr_t)start * step;
    for (size_t k = 0; k < depth; ++k)
        FN(store_run)(tile + k * group->n, at + (intptr_t)k * step, views->gradient.stride,
                      group->n, (instep_dtype)views->gradient.dtype);
}

/* The effective targets of all rows. */
static void FN(load_targets)(double *t, const instep_loss_views *views, const FN(row_group) * group,
                             size_t start, size_t depth)
{
    double dense[INSTEP_TILE];
    for (size_t r = 0; r < group->n; ++r) {
        const instep_class_row row = FN(class_row)(views, group->first + r);
        for (size_t k = 0; k < depth; ++k) {
            const size_t left = depth - k, at = k % INSTEP_TILE;
            if (at == 0)
                FN(effective_target)(dense, views, &row, start + k,
                                     left < INSTEP_TILE ? left : INSTEP_TILE);
            t[k * group->n + r] = dense[at];
        }
    }
}

/* ---- sums -------------------------------------------------------------------------------------
 */

/* lane += x; the first class of a lane starts it. */
ALWAYS_INLINE static void FN(add_to)(double *restrict lane, const double *restrict x, size_t n,
                                     int first)
{
    if (first) memcpy(lane, x, n * sizeof *lane);
    else
        for (size_t r = 0; r < n; ++r) lane[r] += x[r];
}

/* Add the exponentials of one tile to the totals. */
static void FN(add_totals)(FN(row_group) * group, const REAL *tile, size_t start, size_t depth)
{
    for (size_t k = 0; k < depth; ++k, tile += group->n) {
        double *total = group->total[(start + k) % INSTEP_LANES];
        if (start + k < INSTEP_LANES)
            for (size_t r = 0; r < group->n; ++r) total[r] = (double)tile[r];
        else
            for (size_t r = 0; r < group->n; ++r) total[r] += (double)tile[r];
    }
}

static void FN(add_spikes)(FN(row_group) * group, const REAL *tile, size_t start, size_t depth)
{
    for (size_t r = 0; r < group->n; ++r) {
        const uint64_t at = (uint64_t)group->label[r] - start;
        const double x = at < depth ? (double)tile[at * group->n + r] : 0;
        const double product = group->height[r] * (x - (double)group->top[r]);
        if (start == 0) group->dot[0][r] = 0;
        if (at < depth && group->height[r] != 0) group->dot[0][r] = product;
    }
}

/* Add sum t and sum t * (x - top) of one tile. */
static void FN(add_soft)(FN(row_group) * group, const double *restrict t, const REAL *restrict tile,
                         size_t start, size_t depth)
{
    const size_t n = group->n;
    double product[FN(MOST_ROWS)];
    for (size_t k = 0; k < depth; ++k, t += n, tile += n) {
        const size_t lane = (start + k) % INSTEP_LANES;
        for (size_t r = 0; r < n; ++r) {
            const double full = t[r] * ((double)tile[r] - (double)group->top[r]);
            product[r] = t[r] != 0 ? full : 0;
        }
        FN(add_to)(group->mass[lane], t, n, start + k < INSTEP_LANES);
        FN(add_to)(group->dot[lane], product, n, start + k < INSTEP_LANES);
    }
}

/* lane[0] = the sum of all lanes, as lane_sum adds them; `used` of them hold something. */
static void FN(add_lanes)(double (*lane)[FN(MOST_ROWS)], size_t used, size_t n)
{
    for (size_t width = INSTEP_LANES / 2; width > 0; width /= 2)
        for (size_t j = 0; j < width && j + width < used; ++j)
            for (size_t r = 0; r < n; ++r) lane[j][r] += lane[j + width][r];
}

static void FN(finish_sums)(FN(row_group) * group, size_t classes, double scale)
{
    const size_t lanes = classes < INSTEP_LANES ? classes : INSTEP_LANES;
    const double *total = group->total[0], *dot = group->dot[0];
    const double *mass = group->spikes ? group->height : group->mass[0];
    FN(add_lanes)(group->total, lanes, group->n);
    if (!group->spikes) {
        FN(add_lanes)(group->mass, lanes, group->n);
        FN(add_lanes)(group->dot, lanes, group->n);
    }
    for (size_t r = 0; r < group->n; ++r) {
        const double weight = mass[r] + 0, product = dot[r] + 0; /* -0 becomes 0, as in lane_sum */
        const double value = weight * vlog_f64(total[r]) - product;
        group->ratio[r] = weight / total[r] * scale;
        group->value[r] = group->ignored[r] ? 0 : value;
    }
}

/* ---- gradients --------------------------------------------------------------------------------
 */

static void FN(group_exponentials)(REAL *restrict tile, const REAL *restrict top, size_t n,
                                   size_t depth)
{
    for (size_t k = 0; k < depth; ++k, tile += n)
        for (size_t r = 0; r < n; ++r) tile[r] = FN(vexp_negative)(tile[r] - top[r]);
}

/* tile = e * ratio - t * scale where all rows are spikes */
static void FN(spike_gradient)(REAL *restrict tile, const FN(row_group) * group, double scale,
                               size_t start, size_t depth)
{
    const size_t n = group->n;
    REAL rounded[FN(MOST_ROWS)], label[FN(MOST_ROWS)];
    for (size_t r = 0; r < n; ++r) {
        const uint64_t at = (uint64_t)group->label[r] - start;
        const double e = at < depth ? (double)tile[at * n + r] : 0;
        label[r] = (REAL)(e * group->ratio[r] - group->height[r] * scale);
        rounded[r] = (REAL)group->ratio[r];
    }
    for (size_t k = 0; k < depth; ++k)
        for (size_t r = 0; r < n; ++r) tile[k * n + r] *= rounded[r];
    for (size_t r = 0; r < n; ++r) {
        const uint64_t at = (uint64_t)group->label[r] - start;
        if (at < depth) tile[at * n + r] = label[r];
    }
}

/* tile = e * ratio - t * scale; t is NULL if all rows are spikes. */
static void FN(group_gradient)(REAL *restrict tile, const FN(row_group) * group,
                               const double *restrict t, double scale, size_t start, size_t depth)
{
    const size_t n = group->n;
    if (t == NULL) FN(spike_gradient)(tile, group, scale, start, depth);
    else
        for (size_t k = 0; k < depth; ++k)
            for (size_t r = 0; r < n; ++r)
                tile[k * n + r] =
                    (REAL)((double)tile[k * n + r] * group->ratio[r] - t[k * n + r] * scale);
    for (size_t r = 0; r < n; ++r) /* even where its logits are NaN */
        if (group->ignored[r])
            for (size_t k = 0; k < depth; ++k) tile[k * n + r] = 0;
}

/* ---- the three walks --------------------------------------------------------------------------
 */

static void FN(find_tops)(FN(row_group) * group, const instep_loss_views *views, REAL *tile)
{
    const size_t n = group->n;
    for (size_t r = 0; r < n; ++r) group->top[r] = -(REAL)INFINITY;
    for (size_t start = 0; start < views->classes; start += group->depth) {
        const size_t depth = FN(depth_at)(group, views->classes, start);
        FN(load_group)(tile, &views->pred, views->pred_step, group, start, depth);
        for (size_t k = 0; k < depth; ++k)
            for (size_t r = 0; r < n; ++r)
                group->top[r] = tile[k * n + r] > group->top[r] ? tile[k * n + r] : group->top[r];
    }
}

static void FN(add_exponentials)(FN(row_group) * group, const instep_loss_views *views, REAL *tile,
                                 double *t, int single, int rests)
{
    for (size_t start = 0; start < views->classes; start += group->depth) {
        const size_t depth = FN(depth_at)(group, views->classes, start);
        if (!single) FN(load_group)(tile, &views->pred, views->pred_step, group, start, depth);
        if (t == NULL) FN(add_spikes)(group, tile, start, depth);
        if (t) FN(load_targets)(t, views, group, start, depth);
        if (t) FN(add_soft)(group, t, tile, start, depth);
        FN(group_exponentials)(tile, group->top, group->n, depth);
        FN(add_totals)(group, tile, start, depth);
        if (!single && rests) FN(store_group)(tile, views, group, start, depth);
    }
}

static void FN(write_gradients)(const FN(row_group) * group, const instep_loss_views *views,
                                REAL *tile, double *t, int single, int rests)
{
    for (size_t start = 0; start < views->classes; start += group->depth) {
        const size_t depth = FN(depth_at)(group, views->classes, start);
        if (!single && rests) {
            FN(load_group)(tile, &views->gradient, views->gradient_step, group, start, depth);
        } else if (!single) {
            FN(load_group)(tile, &views->pred, views->pred_step, group, start, depth);
            FN(group_exponentials)(tile, group->top, group->n, depth);
        }
        if (!single && t) FN(load_targets)(t, views, group, start, depth);
        FN(group_gradient)(tile, group, t, views->scale, start, depth);
        FN(store_group)(tile, views, group, start, depth);
    }
}

/* If all classes fit into one tile, it stays as it is from walk to walk. */
static void FN(softmax_group)(const instep_loss_views *views, FN(row_group) * group)
{
    _Alignas(64) REAL tile[FN(GROUP_TILE)];
    _Alignas(64) double targets[FN(GROUP_TILE)];
    const int single = group->depth == views->classes, rests = views->gradient.dtype == REAL_DTYPE;
    double *const t = group->spikes ? NULL : targets;
    FN(find_tops)(group, views, tile);
    FN(add_exponentials)(group, views, tile, t, single, rests);
    FN(finish_sums)(group, views->classes, views->scale);
    FN(write_gradients)(group, views, tile, t, single, rests);
}

static double FN(softmax_rows)(const instep_loss_views *views, size_t start, size_t count)
{
    FN(row_group) group;
    double sum = 0;
    for (const size_t end = start + count; start < end; start += group.n) {
        FN(start_group)(&group, views, start, end - start);
        FN(softmax_group)(views, &group);
        for (size_t r = 0; r < group.n; ++r) sum += group.value[r];
        if (views->has_values)
            for (size_t r = 0; r < group.n; ++r) FN(store_value)(views, start + r, group.value[r]);
    }
    return sum;
}

static double FN(cross_entropy)(const instep_loss_views *views, size_t start, size_t count)
{
    const intptr_t itemsize = instep_itemsize((instep_dtype)views->pred.dtype);
    if (views->classes <= FN(FEW_CLASSES) || views->pred_step != itemsize)
        return FN(softmax_rows)(views, start, count);
    return FN(each_row)(views, start, count, FN(cross_entropy_row));
}
