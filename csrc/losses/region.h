/* region.h: losses of the overlap of two regions (Dice, IoU, Tversky), one score per group.
 *
 * p prediction (its sigmoid, from logits), t target, over the elements of a group:
 *
 *     I = sum p t,   P = sum p,   T = sum t
 *     N = overlap_gain I + smooth,   D = overlap I + pred P + target T + smooth
 *     value    = 1 - N / D                                            0 where D = 0
 *     gradient = (N overlap - D overlap_gain) / D^2 t + N pred / D^2
 *
 * and, from logits, p (1 - p) times that.
 *
 * Two passes over the data: the sums, then the gradient. Elements whose mask is 0 or whose target
 * is `ignored` do not exist: they add nothing, and their gradient is 0 even where they are NaN. */

/* One tile as both passes see it. */
typedef struct {
    const REAL *p, *t, *slope; /* slope = dp / dx; NULL: 1 */
    const uint8_t *kept;       /* NULL: all */
} FN(region_tile);

/* Where it lies if not in the arrays: decoded, then as what it becomes. */
typedef struct {
    _Alignas(64) REAL pred[INSTEP_TILE], target[INSTEP_TILE], mask[INSTEP_TILE];
    _Alignas(64) REAL p[INSTEP_TILE], t[INSTEP_TILE], slope[INSTEP_TILE];
    uint8_t kept[INSTEP_TILE];
} FN(region_buffer);

static void FN(sigmoids)(REAL *restrict p, REAL *restrict slope, const REAL *restrict x, size_t n)
{
    for (size_t i = 0; i < n; ++i) {
        const REAL e = FN(vexp_negative)(FN(minus_size)(x[i]));
        const REAL large = 1 / (1 + e), small = e * large;
        p[i] = x[i] < 0 ? small : large;
        slope[i] = large * small;
    }
}

static void FN(keep)(uint8_t *restrict kept, const REAL *restrict mask, const REAL *restrict t,
                     REAL ignored, size_t n)
{
    if (mask)
        for (size_t i = 0; i < n; ++i) kept[i] = mask[i] != 0;
    else
        for (size_t i = 0; i < n; ++i) kept[i] = 1;
    for (size_t i = 0; i < n; ++i) kept[i] = (uint8_t)(kept[i] & (t[i] != ignored));
}

static void FN(hide)(REAL *restrict out, const REAL *restrict in, const uint8_t *restrict kept,
                     size_t n)
{
    for (size_t i = 0; i < n; ++i) {
        const REAL value = in[i];
        out[i] = kept[i] ? value : 0;
    }
}

static FN(region_tile) FN(load_region)(FN(region_buffer) * buffer, const instep_loss_views *views,
                                       size_t start, size_t n)
{
    const struct region_coefficients *c = (const void *)views->coefficients;
    FN(region_tile) tile = {.p = FN(borrow)(&views->pred, start, n, buffer->pred)};
    tile.t = FN(borrow)(&views->target, start, n, buffer->target);
    if (c->from_logits != 0) {
        FN(sigmoids)(buffer->p, buffer->slope, tile.p, n);
        tile.p = buffer->p;
        tile.slope = buffer->slope;
    }
    if (views->has_extra || c->ignored == c->ignored) { /* NaN: nothing is ignored */
        const REAL *mask = NULL;
        REAL *p = tile.slope ? buffer->pred : buffer->p; /* not where tile.p is */
        if (views->has_extra) mask = FN(borrow)(&views->extra, start, n, buffer->mask);
        FN(keep)(buffer->kept, mask, tile.t, (REAL)c->ignored, n);
        FN(hide)(p, tile.p, buffer->kept, n);
        FN(hide)(buffer->t, tile.t, buffer->kept, n);
        tile.kept = buffer->kept;
        tile.p = p;
        tile.t = buffer->t;
    }
    return tile;
}

/* Add p t, p and t of one tile to the lanes: fours of a lane in REAL at first, since most of the
 * time goes into conversions. */
static void FN(add_overlap)(double lanes[3][INSTEP_LANES], const REAL *restrict p,
                            const REAL *restrict t, size_t n)
{
    enum { L = INSTEP_LANES };
    double lane[3][L];
    size_t i = 0;
    memcpy(lane, lanes, sizeof lane);
    for (; i + 4 * L <= n; i += 4 * L)
        for (size_t j = i; j < i + L; ++j) {
            const REAL both = (p[j] * t[j] + p[j + L] * t[j + L]) +
                              (p[j + 2 * L] * t[j + 2 * L] + p[j + 3 * L] * t[j + 3 * L]);
            lane[0][j - i] += (double)both;
            lane[1][j - i] += (double)((p[j] + p[j + L]) + (p[j + 2 * L] + p[j + 3 * L]));
            lane[2][j - i] += (double)((t[j] + t[j + L]) + (t[j + 2 * L] + t[j + 3 * L]));
        }
    for (size_t j = 0; i < n; ++i, j = (j + 1) % L) {
        lane[0][j] += (double)(p[i] * t[i]);
        lane[1][j] += (double)p[i];
        lane[2][j] += (double)t[i];
    }
    memcpy(lanes, lane, sizeof lane);
}

/* sums = I, P, T of elements [start, start + count) of the walk */
static void FN(region_sums)(const instep_loss_views *views, size_t start, size_t count,
                            double sums[3])
{
    FN(region_buffer) buffer;
    double lanes[3][INSTEP_LANES] = {{0}};
    for (const size_t end = start + count; start < end; start += INSTEP_TILE) {
        const size_t n = end - start < INSTEP_TILE ? end - start : INSTEP_TILE;
        const FN(region_tile) tile = FN(load_region)(&buffer, views, start, n);
        FN(add_overlap)(lanes, tile.p, tile.t, n);
    }
    for (int k = 0; k < 3; ++k) sums[k] = lane_sum(lanes[k]);
}

/* rise t + base, written so that the targets 0 and 1 get their slopes without cancellation. */
static void FN(region_slopes)(REAL *restrict gradient, const REAL *restrict t, double rise,
                              double base, size_t n)
{
    const REAL there = (REAL)(rise + base), elsewhere = (REAL)base;
    for (size_t i = 0; i < n; ++i) gradient[i] = t[i] * there + (1 - t[i]) * elsewhere;
}

/* gradient = (rise t + base) dp/dx of elements [start, start + count) of the walk. Written where it
 * lies even if that is pred: nothing of a tile is read afterwards. */
static void FN(region_gradient)(const instep_loss_views *views, size_t start, size_t count,
                                double rise, double base)
{
    FN(region_buffer) buffer;
    _Alignas(64) REAL rest[INSTEP_TILE];
    for (const size_t end = start + count; start < end; start += INSTEP_TILE) {
        const size_t n = end - start < INSTEP_TILE ? end - start : INSTEP_TILE;
        const FN(region_tile) tile = FN(load_region)(&buffer, views, start, n);
        REAL *gradient = FN(lend)(&views->gradient, start, rest);
        FN(region_slopes)(gradient, tile.t, rise, base, n);
        if (tile.slope)
            for (size_t i = 0; i < n; ++i) gradient[i] *= tile.slope[i];
        if (tile.kept)
            for (size_t i = 0; i < n; ++i) gradient[i] = tile.kept[i] ? gradient[i] : 0;
        FN(give_back)(&views->gradient, start, n, gradient, rest);
    }
}
