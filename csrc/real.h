/* real.h: the compute type of the bodies that are included after it.
 *
 * variant.h defines REAL_BITS (32 or 64) and includes typed.h, which includes this file and then
 * every body, once per type. FN(adam) is adam_f32 or adam_f64; all such functions are static, so
 * the objects of different instruction sets cannot clash.
 * No include guard: being included twice is the point. */
#undef REAL
#undef UINT
#undef FN
#undef ROOT
#undef REAL_DTYPE
#if REAL_BITS == 32
#define REAL float
#define REAL_DTYPE INSTEP_FLOAT32
#define UINT uint32_t
#define FN(name) name##_f32
#define ROOT sqrtf
#elif REAL_BITS == 64
#define REAL double
#define REAL_DTYPE INSTEP_FLOAT64
#define UINT uint64_t
#define FN(name) name##_f64
#define ROOT sqrt
#else
#error "REAL_BITS must be 32 or 64"
#endif

#ifndef ALWAYS_INLINE
/* For functions that take a constant they must be compiled for: a function to call, an option. */
#define ALWAYS_INLINE __attribute__((always_inline)) inline
/* For large functions that are called from several places: one copy; and for those whose stack
 * frame their callers should not carry. */
#define APART __attribute__((noinline))
/* For what is seldom run: small rather than fast. */
#define SELDOM __attribute__((noinline, cold))
#endif
