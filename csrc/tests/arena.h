/* arena.h: arrays that lie against guard pages, for the C tests.
 *
 * An array begins right behind a page, or ends right before one, that may not be touched: one
 * byte read or written outside is a crash. Bytes between and beside its elements hold a canary.
 */
#ifndef INSTEP_TESTS_ARENA_H
#define INSTEP_TESTS_ARENA_H

#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#define SIZE windows_size /* names that the tests use */
#include <windows.h>
#undef SIZE
#undef near
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "instep.h"

enum { CANARY = 0xa5, BESIDE = 64 };

/* PACKED: one byte between elements, so that nearly none is aligned. ROWS: all rows are one.
 * CONSTANT: all elements are one. */
typedef enum { DENSE, FORTRAN, STRIDED, REVERSED, PACKED, ROWS, CONSTANT } layout;

typedef struct {
    char *low, *high;   /* bytes between the guard pages */
    char *first, *last; /* bytes from the array's first to its last */
    intptr_t shape[2], strides[2];
    instep_array array;
} arena;

static int failures;

/* One line per check. Returns `ok`. */
__attribute__((format(printf, 2, 3))) static inline int check(int ok, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("%s", ok ? "ok    " : "FAIL  ");
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    fflush(stdout);
    failures += !ok;
    return ok;
}

static inline intptr_t size_of(instep_dtype dtype)
{
    static const uint8_t size[INSTEP_DTYPES] = {4, 8, 2, 2, sizeof(long double), 1, 2, 4, 8,
                                                1, 2, 4, 8};
    return size[dtype];
}

static inline const char *name_of(instep_dtype dtype)
{
    static const char *const name[INSTEP_DTYPES] = {"f32", "f64", "f16", "bf16", "long double",
                                                    "i8",  "i16", "i32", "i64",  "u8",
                                                    "u16", "u32", "u64"};
    return name[dtype];
}

#ifdef _WIN32
static inline size_t page_size(void)
{
    SYSTEM_INFO system;
    GetSystemInfo(&system);
    return system.dwPageSize;
}

/* Pages of which only those in the middle may be touched, or NULL. */
static inline char *guarded(size_t inside, size_t page)
{
    DWORD before;
    char *map = VirtualAlloc(NULL, inside + 2 * page, MEM_RESERVE | MEM_COMMIT, PAGE_NOACCESS);
    if (map == NULL || inside == 0) return map;
    return VirtualProtect(map + page, inside, PAGE_READWRITE, &before) ? map : NULL;
}
#else
static inline size_t page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }

/* Pages of which only those in the middle may be touched, or NULL. */
static inline char *guarded(size_t inside, size_t page)
{
    char *map = mmap(NULL, inside + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return NULL;
    return mprotect(map + page, inside, PROT_READ | PROT_WRITE) == 0 ? map : NULL;
}
#endif

static inline void arena_open(arena *a, size_t bytes)
{
    const size_t page = page_size();
    const size_t inside = (bytes + page - 1) / page * page;
    char *map = guarded(inside, page);
    if (map == NULL) {
        fprintf(stderr, "no memory between guard pages\n");
        exit(1);
    }
    a->low = map + page;
    a->high = a->low + inside;
}

static inline void choose_strides(intptr_t strides[2], layout how, intptr_t size, intptr_t rows,
                                  intptr_t columns)
{
    const intptr_t step = how == STRIDED ? 3 * size : how == PACKED ? size + 1 : size;
    strides[0] = columns * step + (how == STRIDED ? size : 0); /* the rows are no single run */
    strides[1] = step;
    if (how == FORTRAN) {
        strides[0] = size;
        strides[1] = rows * size;
    }
    if (how == REVERSED) {
        strides[0] = -strides[0];
        strides[1] = -strides[1];
    }
    if (how == ROWS || how == CONSTANT) strides[0] = 0;
    if (how == CONSTANT) strides[1] = 0;
}

/* Lay a rows x columns array out against the upper (`at_end`) or lower guard page. */
static inline void arena_place(arena *a, layout how, instep_dtype dtype, intptr_t rows,
                               intptr_t columns, int at_end)
{
    const intptr_t size = size_of(dtype);
    intptr_t below = 0, above = rows * columns > 0 ? size : 0;
    a->shape[0] = rows;
    a->shape[1] = columns;
    choose_strides(a->strides, how, size, rows, columns);
    for (int axis = 0; axis < 2 && above > 0; ++axis) {
        const intptr_t reach = (a->shape[axis] - 1) * a->strides[axis];
        if (reach < 0) below += reach;
        else above += reach;
    }
    if (above - below > a->high - a->low) {
        fprintf(stderr, "an arena is too small\n");
        exit(1);
    }
    a->first = at_end ? a->high - (above - below) : a->low;
    a->last = a->first + (above - below);
    char *from = a->first - a->low < BESIDE ? a->low : a->first - BESIDE;
    char *to = a->high - a->last < BESIDE ? a->high : a->last + BESIDE;
    memset(from, CANARY, (size_t)(to - from));
    a->array = (instep_array){a->first - below, a->shape, a->strides, 2, dtype};
}

static inline char *arena_at(const arena *a, intptr_t row, intptr_t column)
{
    return a->array.data + row * a->strides[0] + column * a->strides[1];
}

/* Are all bytes that are no element still the canary? Spoils the elements. */
static inline int arena_intact(arena *a)
{
    for (intptr_t row = 0; row < a->shape[0]; ++row)
        for (intptr_t column = 0; column < a->shape[1]; ++column)
            memset(arena_at(a, row, column), CANARY, (size_t)size_of(a->array.dtype));
    const char *from = a->first - a->low < BESIDE ? a->low : a->first - BESIDE;
    const char *to = a->high - a->last < BESIDE ? a->high : a->last + BESIDE;
    for (; from < to; ++from)
        if ((unsigned char)*from != CANARY) return 0;
    return 1;
}

/* The float16 nearest to `value`, ties to even. */
static inline uint16_t half_of(double value)
{
    int exponent;
    const int sign = signbit(value) ? 0x8000 : 0;
    if (value != value) return 0x7e00;
    if (value == 0 || isinf(value)) return (uint16_t)(sign | (value == 0 ? 0 : 0x7c00));
    frexp(fabs(value), &exponent);      /* |value| in [1/2, 1) * 2^exponent */
    if (exponent < -13) exponent = -13; /* subnormal */
    if (exponent > 17) exponent = 17;   /* overflows */
    const double steps = nearbyint(ldexp(fabs(value), 11 - exponent)); /* 1024 to 2048 if normal */
    const double bits = (exponent + 13) * 1024 + steps;
    return (uint16_t)(sign | (bits < 0x7c00 ? (int)bits : 0x7c00));
}

/* The bfloat16 nearest to a float32, ties to even. */
static inline uint16_t bfloat_of(double value)
{
    const float narrow = (float)value;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    if (narrow != narrow) return 0x7fc0;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline double of_half(uint16_t bits)
{
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double size = exponent == 0   ? ldexp(fraction, -24)
                        : exponent < 31 ? ldexp(1024 + fraction, exponent - 25)
                        : fraction == 0 ? (double)INFINITY
                                        : (double)NAN;
    return bits & 0x8000 ? -size : size;
}

static inline double of_bfloat(uint16_t top)
{
    const uint32_t bits = (uint32_t)top << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

static inline void put_bits(char *at, uint16_t bits) { memcpy(at, &bits, sizeof bits); }

/* Store `value`, which an integer type holds exactly; float16 and bfloat16 round. */
static inline void put(char *at, instep_dtype dtype, double value)
{
    const float narrow = (float)value;
    const long double wide = value;
    const int64_t whole = dtype >= INSTEP_INT8 ? (int64_t)value : 0;
    switch (dtype) {
    case INSTEP_FLOAT32: memcpy(at, &narrow, sizeof narrow); break;
    case INSTEP_FLOAT64: memcpy(at, &value, sizeof value); break;
    case INSTEP_FLOAT16: put_bits(at, half_of(value)); break;
    case INSTEP_BFLOAT16: put_bits(at, bfloat_of(value)); break;
    case INSTEP_LONGDOUBLE: /* without its padding, whose bytes are not defined */
        memset(at, 0, sizeof wide);
        memcpy(at, &wide, LDBL_MANT_DIG == 64 ? 10 : sizeof wide);
        break;
    default: memcpy(at, &whole, (size_t)size_of(dtype)); /* little endian */
    }
}

static inline double get_whole(const char *at, instep_dtype dtype)
{
    uint64_t bits = 0; /* little endian */
    memcpy(&bits, at, (size_t)size_of(dtype));
    if (dtype >= INSTEP_UINT8) return (double)bits;
    const int unused = 64 - 8 * (int)size_of(dtype);
    return (double)((int64_t)(bits << unused) >> unused);
}

static inline double get(const char *at, instep_dtype dtype)
{
    float narrow;
    double value;
    long double wide;
    uint16_t bits;
    switch (dtype) {
    case INSTEP_FLOAT32: memcpy(&narrow, at, sizeof narrow); return (double)narrow;
    case INSTEP_FLOAT64: memcpy(&value, at, sizeof value); return value;
    case INSTEP_FLOAT16: memcpy(&bits, at, sizeof bits); return of_half(bits);
    case INSTEP_BFLOAT16: memcpy(&bits, at, sizeof bits); return of_bfloat(bits);
    case INSTEP_LONGDOUBLE: memcpy(&wide, at, sizeof wide); return (double)wide;
    default: return get_whole(at, dtype);
    }
}

/* memcmp for the sizes of numbers; inlined, where a call would take most of the tests' time. */
static inline int equal_bytes(const char *a, const char *b, intptr_t size)
{
    switch (size) {
    case 2: return memcmp(a, b, 2) == 0;
    case 4: return memcmp(a, b, 4) == 0;
    case 8: return memcmp(a, b, 8) == 0;
    default: return memcmp(a, b, (size_t)size) == 0;
    }
}

/* Equal bits, or both NaN. */
static inline int same(const char *a, const char *b, instep_dtype dtype)
{
    if (equal_bytes(a, b, size_of(dtype))) return 1;
    const double left = get(a, dtype), right = get(b, dtype);
    return left != left && right != right;
}

/* The lengths at which kernels go wrong: lanes, tiles, pieces. Ends with -1. */
static inline intptr_t length_of(int k)
{
    static const intptr_t more[] = {127, 128, 129, 511, 512, 513, 1000, 16383, 16384, 16385, -1};
    return k <= 70 ? k : more[k - 71];
}

/* Cut n elements into rows. */
static inline intptr_t rows_of(intptr_t n)
{
    for (intptr_t rows = 7; rows > 1; --rows)
        if (n > 0 && n % rows == 0) return rows;
    return 1;
}

#endif
