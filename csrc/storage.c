/* storage.c: states in 16 and 8 bits, outside a step: to load them and to look at them. */
#include "table.h"

void instep_state_encode(const float *values, size_t count, instep_dtype dtype, void *codes,
                         float *scales)
{
    instep_kernels()->encode(dtype, codes, scales, values, count);
}

void instep_state_decode(const void *codes, const float *scales, size_t count, instep_dtype dtype,
                         float *values)
{
    instep_kernels()->decode(values, dtype, codes, scales, count);
}
