/* step.h: the step pipeline over one piece of one leaf.
 *
 *     decode gradient, parameter, states -> rule -> what extras.h does -> encode parameter, states
 *
 * tile by tile. Dense arrays of the compute type are used where they lie, and when all are and the
 * update is all there is to do, the rule takes the piece at once. What an element becomes does not
 * depend on where a tile begins, so tiles of a dense parameter begin at cache lines: vectors that
 * straddle two lines cost half as much again. */

/* A scale that REAL cannot hold to full precision (float32 only). */
static inline int FN(is_extreme)(double scale)
{
    const double size = scale < 0 ? -scale : scale;
    return REAL_BITS == 32 && (size < 0x1p-100 || size > 0x1p100);
}

/* Decode a gradient that REAL cannot hold as it is: scale in float64, then round once, so that
 * 1e300 * 1e-300 arrives as 1. */
static void FN(load_scaled)(REAL *restrict tile, const instep_view *view, size_t start,
                            size_t count, double scale)
{
    _Alignas(64) double wide[INSTEP_TILE];
    load_f64(wide, view, start, count);
    for (size_t i = 0; i < count; ++i) tile[i] = (REAL)(wide[i] * scale);
}

/* Elements from `start` to the parameter's next cache line; 0 where states have blocks, which begin
 * at multiples of INSTEP_BLOCK. */
static inline size_t FN(head)(const instep_leaf *leaf, size_t start)
{
    const uintptr_t address = (uintptr_t)leaf->parameter.data + start * sizeof(REAL);
    const int dense = leaf->parameter.dense && leaf->parameter.dtype == REAL_DTYPE;
    return dense && !leaf->blocked ? (0 - address) % INSTEP_LINE / sizeof(REAL) : 0;
}

/* What the tiles of a piece share. */
typedef struct {
    const instep_leaf *leaf;
    const instep_step_options *options;
    int scaled;   /* the gradient is scaled as it is loaded, by `scale` */
    double scale; /* and coefficients[0] is 1 then */
    double coefficients[INSTEP_MAX_COEFFICIENTS];
    FN(lanes) * lanes; /* NULL if nothing is measured */
    rounding by;       /* prepared if leaf->words or leaf->nearest */
} FN(pass);

/* One tile. `loaded`: its gradient, if that is there as REAL already, else NULL. */
APART static void FN(update)(FN(pass) * pass, size_t start, size_t n, const REAL *loaded)
{
    _Alignas(64) REAL buffer[3 + INSTEP_MAX_STATES][INSTEP_TILE];
    REAL *const before = buffer[2 + INSTEP_MAX_STATES], *state[INSTEP_MAX_STATES];
    const instep_leaf *leaf = pass->leaf;
    const instep_step_options *options = pass->options;
    rounding *by = &pass->by;
    const REAL *g = loaded != NULL ? loaded : buffer[0];
    if (pass->scaled) FN(load_scaled)(buffer[0], &leaf->gradient, start, n, pass->scale);
    else if (loaded == NULL) g = FN(borrow)(&leaf->gradient, start, n, buffer[0]);
    REAL *p = FN(borrow)(&leaf->parameter, start, n, buffer[1]);
    if (!by->in_rule)
        for (int k = 0; k < leaf->states; ++k)
            state[k] = FN(open_state)(leaf, k, start, n, buffer[2 + k]);
    if (pass->lanes != NULL) {
        FN(measure_gradient)(pass->lanes, leaf, start, n, g, pass->scaled, options->measured_scale,
                             pass->coefficients);
        memcpy(before, p, n * sizeof *p);
    }
    if (by->in_rule) FN(run_on_codes)(leaf, start, n, p, g, pass->coefficients, by->key[0]);
    else FN(rules)[leaf->rule](n, p, g, state, (random_key){0, 0}, pass->coefficients);
    draw_words(by, leaf, start, n);
    FN(round_parameter)(leaf, p, n, by);
    if (pass->lanes != NULL) FN(measure_parameter)(pass->lanes, p, before, n);
    if (leaf->averaged) FN(average)(leaf, start, n, p, options->average_weight);
    if (leaf->copied) FN(store)(p, &leaf->copy, start, n);
    if (options->zero_gradients) FN(zero)(&leaf->gradient, start, n);
    FN(give_back)(&leaf->parameter, start, n, p, buffer[1]);
    if (!by->in_rule)
        for (int k = 0; k < leaf->states; ++k)
            FN(close_state)(leaf, k, start, n, state[k], buffer[2 + k], by);
}

/* Elements [start, end). `loaded`: as of update, for all of them. */
static void FN(update_tiles)(FN(pass) * pass, size_t start, size_t end, const REAL *loaded)
{
    const int aligned = end - start > INSTEP_TILE && pass->lanes == NULL;
    const size_t head = aligned ? FN(head)(pass->leaf, start) : 0;
    for (size_t n = head > 0 ? head : INSTEP_TILE; start < end; start += n, n = INSTEP_TILE) {
        if (n > end - start) n = end - start;
        FN(update)(pass, start, n, loaded);
        if (loaded != NULL) loaded += n;
    }
}

/* The same by panels of the gradient, whose memory runs across the walk. */
APART static void FN(update_panels)(FN(pass) * pass, size_t start, size_t end)
{
    _Alignas(64) REAL panel[INSTEP_PANEL / sizeof(REAL)];
    for (size_t n = INSTEP_PANEL / sizeof(REAL); start < end; start += n) {
        if (n > end - start) n = end - start;
        FN(load_across)(panel, &pass->leaf->gradient, start, n);
        FN(update_tiles)(pass, start, start + n, panel);
    }
}

/* Do all arrays of the leaf lie dense in the type that the rule takes, and is the update all there
 * is to do? */
static inline int FN(is_whole)(const instep_leaf *leaf, const instep_step_options *options,
                               int in_rule)
{
    const int real = leaf->gradient.dtype == REAL_DTYPE && leaf->parameter.dtype == REAL_DTYPE;
    int whole = real && leaf->gradient.dense && leaf->parameter.dense;
    for (int k = 0; k < leaf->states; ++k)
        whole &= in_rule || (leaf->state[k].dense && leaf->state[k].dtype == REAL_DTYPE);
    whole &= !(leaf->averaged || leaf->copied);
    return whole && !(options->zero_gradients || options->measure);
}

/* A piece of such a leaf, where it lies. */
static void FN(step_whole)(const instep_leaf *leaf, size_t start, size_t count, const double *row,
                           const instep_step_options *options, int in_rule)
{
    const size_t head = count > INSTEP_TILE ? FN(head)(leaf, start) : 0, end = start + count;
    random_key key = {0, 0};
    if (in_rule) key = random_key_of(options, leaf->index, start, 0);
    for (size_t n = head > 0 ? head : count; start < end; start += n, n = end - start) {
        REAL *p = (REAL *)(void *)leaf->parameter.data + start, *state[INSTEP_MAX_STATES];
        const REAL *g = (const REAL *)(const void *)leaf->gradient.data + start;
        for (int k = 0; k < leaf->states; ++k)
            state[k] = (REAL *)(void *)leaf->state[k].data + start;
        if (in_rule) FN(run_on_codes)(leaf, start, n, p, g, row, key);
        else FN(rules)[leaf->rule](n, p, g, state, key, row);
    }
}

/* A piece tile by tile, with copies of what lies or is stored otherwise. */
APART static void FN(step_tiles)(const instep_leaf *leaf, size_t start, size_t count,
                                 const double *row, const instep_step_options *options, int in_rule,
                                 instep_measures *measures)
{
    FN(lanes) lanes;
    FN(pass) pass;
    const instep_dtype given = (instep_dtype)leaf->gradient.dtype;
    const int wide = REAL_BITS == 32 && (given == INSTEP_FLOAT64 || given == INSTEP_LONGDOUBLE);

    pass.leaf = leaf;
    pass.options = options;
    pass.scaled = wide || FN(is_extreme)(row[0]);
    pass.scale = row[0];
    memcpy(pass.coefficients, row, sizeof pass.coefficients);
    if (pass.scaled) pass.coefficients[0] = 1;
    pass.lanes = options->measure ? &lanes : NULL;
    if (options->measure) memset(&lanes, 0, sizeof lanes);
    pass.by.in_rule = in_rule;
    if (leaf->words != 0 || leaf->nearest != 0) prepare_rounding(&pass.by, leaf, start, options);
    if (!pass.scaled && instep_view_runs_across(&leaf->gradient, sizeof(REAL)))
        FN(update_panels)(&pass, start, start + count);
    else FN(update_tiles)(&pass, start, start + count, NULL);
    if (options->measure) *measures = FN(sum_up)(&lanes);
}

static void FN(step)(const instep_leaf *leaf, size_t start, size_t count, const double *row,
                     const instep_step_options *options, instep_measures *measures)
{
    const int in_rule = leaf->in_rule && FN(only_scales)(row);
    if (FN(is_whole)(leaf, options, in_rule) && !FN(is_extreme)(row[0]))
        FN(step_whole)(leaf, start, count, row, options, in_rule);
    else FN(step_tiles)(leaf, start, count, row, options, in_rule, measures);
}
