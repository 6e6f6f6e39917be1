/* states.h: the states of a tile, from their storage and back to it; and a bfloat16 parameter. */

/* Where the float32 of a tile are: in the tile itself if it has that type. */
static inline float *FN(floats)(REAL *tile, float *buffer)
{
    return REAL_BITS == 32 ? (float *)(void *)tile : buffer;
}

/* Where elements of state k can be read and written as REAL. */
static REAL *FN(open_state)(const instep_leaf *leaf, int k, size_t start, size_t n, REAL *buffer)
{
    const instep_view *view = &leaf->state[k];
    const instep_dtype dtype = (instep_dtype)view->dtype;
    float wide[INSTEP_TILE], *x = FN(floats)(buffer, wide);
    if (!is_stored(dtype)) return FN(borrow)(view, start, n, buffer);
    decode_state(x, dtype, view->data + (intptr_t)start * instep_itemsize(dtype),
                 scales_from(leaf, k, start), n);
    if (REAL_BITS == 64)
        for (size_t i = 0; i < n; ++i) buffer[i] = (REAL)x[i];
    return buffer;
}

/* Put them back; `buffer` is what open_state was given. */
static void FN(close_state)(const instep_leaf *leaf, int k, size_t start, size_t n, REAL *tile,
                            const REAL *buffer, const rounding *by)
{
    const instep_view *view = &leaf->state[k];
    const instep_dtype dtype = (instep_dtype)view->dtype;
    float narrow[INSTEP_TILE], *x = FN(floats)(tile, narrow);
    if (!is_stored(dtype)) {
        FN(give_back)(view, start, n, tile, buffer);
        return;
    }
    if (REAL_BITS == 64)
        for (size_t i = 0; i < n; ++i) x[i] = (float)tile[i];
    encode_state(dtype, view->data + (intptr_t)start * instep_itemsize(dtype),
                 scales_from(leaf, k, start), x,
                 leaf->nearest >> k & 1 ? by->nearest : by->word[k >> 1], k & 1, n);
}

/* The rule on states of bfloat16 as they lie. */
static void FN(run_on_codes)(const instep_leaf *leaf, size_t start, size_t n, REAL *p,
                             const REAL *g, const double *coefficients, random_key key)
{
#if REAL_BITS == 32
    uint16_t *state[INSTEP_MAX_STATES];
    for (int k = 0; k < leaf->states; ++k)
        state[k] = (uint16_t *)(void *)leaf->state[k].data + start;
    rules_bf16[leaf->rule](n, p, g, state, random_key_at(key, start), coefficients);
#else
    (void)leaf, (void)start, (void)n, (void)p, (void)g, (void)coefficients, (void)key;
#endif
}

/* The new values of a parameter that is a bfloat16 itself: rounded so that storing changes nothing.
 * They have the last stream. */
static void FN(round_parameter)(const instep_leaf *leaf, REAL *p, size_t n, const rounding *by)
{
    if (REAL_BITS == 32 && leaf->parameter.dtype == INSTEP_BFLOAT16)
        round_bfloats((float *)(void *)p, by->word[1], n);
}
