/* fuzz.h: from bytes to arrays, for the fuzz targets.
 *
 * A target decodes any bytes to a valid case of the C API and takes it several times: on each
 * instruction set, with other threads, and with arrays that lie elsewhere. What a case writes to
 * its record must be the same bytes each time. Arrays lie against guard pages and among canaries.
 */
#ifndef INSTEP_TESTS_FUZZ_H
#define INSTEP_TESTS_FUZZ_H

#include "../view.h"
#include "arena.h"

enum { AXES = 4, ROOM = 1 << 20, FEW = 1500, MANY = 48000, RECORD = 1 << 10, LONGEST_CASE = 4096 };

/* The fuzzer's way to fail. */
#define require(condition, ...)                                                     \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s: ", __FILE__, __LINE__, #condition); \
            fprintf(stderr, __VA_ARGS__);                                           \
            fprintf(stderr, "\n");                                                  \
            abort();                                                                \
        }                                                                           \
    } while (0)

/* ---- bytes ---------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *at, *end;
} input;

/* The next byte; 0 behind the end. */
static inline unsigned next_byte(input *in) { return in->at < in->end ? *in->at++ : 0; }

/* A number in [0, end), of which small ones are likely: a case that ends early is a simple one. */
static inline int choose(input *in, int end) { return (int)next_byte(in) % end; }

static inline int one_in(input *in, int count) { return choose(in, count) == count - 1; }

static inline uint32_t hash_number(uint32_t x)
{
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

/* How far the values of an array go. Tame ones are small multiples of 1/8; wide ones span the
 * exponents of float32; wild ones are also NaN, infinite, subnormal and the largest. */
typedef enum { TAME, WIDE, WILD } spread;

static inline double some_value(uint32_t seed, uint32_t i, spread how)
{
    static const double special[] = {NAN,       INFINITY,  -INFINITY, -0.0,    0x1p-149, -0x1p-140,
                                     0x1p-126,  FLT_MAX,   -FLT_MAX,  65504,   65520,    0x1p-24,
                                     0x1p-1074, 0x1p-1022, DBL_MAX,   -DBL_MAX};
    const uint32_t bits = hash_number(seed ^ hash_number(i + 1));
    const double tame = ((double)(bits >> 25) - 64) / 8;
    if (how == TAME) return tame;
    if (how == WILD && (bits & 15) == 0) return special[bits >> 4 & 15];
    return ldexp(tame, (int)(bits >> 8 & 63) - 31);
}

/* ---- arrays --------------------------------------------------------------------------------- */

typedef struct {
    int ndim;
    intptr_t length[AXES];
} extent;

/* How an array lies: its axes from the outermost, the gaps and signs of their strides, a stride of
 * 0, bytes between and off alignment, an outermost that strides far, and at which guard page. */
typedef struct {
    int order[AXES], gap[AXES], back[AXES], still[AXES];
    int odd, far, at_end;
} placing;

typedef struct {
    arena room;
    intptr_t shape[AXES], strides[AXES];
} slab;

static const placing in_c_order = {.order = {0, 1, 2, 3}, .at_end = 1};

static inline size_t elements(const extent *of)
{
    size_t count = 1;
    for (int axis = 0; axis < of->ndim; ++axis) count *= (size_t)of->length[axis];
    return count;
}

/* Shorten axes until there are at most that many elements; none counts as one here. */
static inline void limit(extent *e, size_t most)
{
    for (int least = 3; least > 0; least -= 2)
        for (int axis = 0; axis < e->ndim; ++axis) {
            size_t count = 1;
            for (int k = 0; k < e->ndim; ++k) count *= e->length[k] > 0 ? (size_t)e->length[k] : 1;
            if (count > most && e->length[axis] >= least && e->length[axis] < 127)
                e->length[axis] = 1 + e->length[axis] % least;
        }
}

/* Few elements, but for one case in 32 enough for several threads, and for two long rows. */
static inline extent some_extent(input *in)
{
    static const intptr_t long_ones[] = {127, 128, 129, 512, 513, 1000, 16385, 40000};
    extent e = {.ndim = choose(in, AXES + 1)};
    const int special = choose(in, 32);
    for (int axis = 0; axis < e.ndim; ++axis) e.length[axis] = (choose(in, 20) + 1) % 20;
    if (special == 29 || special == 30) {
        e.ndim = 3;
        e.length[0] = 1 + choose(in, 2);
        e.length[1] = 1 + choose(in, 24);
        e.length[2] = INSTEP_WIDE + choose(in, 256);
    } else if (special > 26 && e.ndim > 0) {
        e.length[choose(in, e.ndim)] = long_ones[special == 31 ? 6 + choose(in, 2) : choose(in, 6)];
    }
    limit(&e, special >= 29 ? MANY : FEW);
    return e;
}

/* `broadcast`: strides may be 0. */
static inline placing some_placing(input *in, int ndim, int broadcast)
{
    placing p = in_c_order;
    if (one_in(in, 2)) return p;
    for (int k = ndim - 1; k > 0; --k) {
        const int other = choose(in, k + 1), held = p.order[k];
        p.order[k] = p.order[other];
        p.order[other] = held;
    }
    const unsigned gaps = next_byte(in), signs = next_byte(in);
    for (int axis = 0; axis < AXES; ++axis) {
        p.gap[axis] = gaps >> 2 * axis & 1;
        p.back[axis] = signs >> axis & 1;
        p.still[axis] = broadcast && (signs >> (4 + axis) & 3) == 3;
    }
    p.far = gaps >> 7 & 1;
    for (int k = ndim - 1; p.far && k > 0; --k)
        if (p.order[k] == ndim - 1) {
            p.order[k] = p.order[k - 1]; /* the last axis outermost */
            p.order[k - 1] = ndim - 1;
        }
    p.odd = one_in(in, 3);
    p.at_end = choose(in, 2);
    return p;
}

/* Lay an array out as told, without gaps where there is no room for them. */
static inline void lay(slab *s, const extent *of, instep_dtype dtype, const placing *how)
{
    const size_t count = elements(of);
    intptr_t size = size_of(dtype), below = 0, above = count > 0 ? size : 0;
    const int odd = how->odd && count * (size_t)size < ROOM / 4;
    const int gaps = count * (size_t)size < ROOM / 64;
    intptr_t unit = size + odd;
    for (int k = of->ndim - 1; k >= 0; --k) {
        const int axis = how->order[k];
        intptr_t stride = unit * (gaps ? 1 + how->gap[axis] : 1);
        if (how->far && k == 0 && stride < INSTEP_FAR &&
            of->length[axis] * (INSTEP_FAR + odd) < ROOM)
            stride = INSTEP_FAR + odd;
        if (how->still[axis]) {
            s->strides[axis] = 0;
        } else {
            s->strides[axis] = how->back[axis] ? -stride : stride;
            unit = stride * (of->length[axis] > 0 ? of->length[axis] : 1);
        }
    }
    for (int axis = 0; axis < of->ndim; ++axis) {
        const intptr_t reach = (of->length[axis] - 1) * s->strides[axis];
        s->shape[axis] = of->length[axis];
        if (count > 0) *(reach < 0 ? &below : &above) += reach;
    }
    arena *a = &s->room;
    if (a->low == NULL) arena_open(a, ROOM);
    require(above - below <= a->high - a->low, "an arena is too small");
    a->first = how->at_end ? a->high - (above - below) : a->low;
    a->last = a->first + (above - below);
    char *from = a->first - a->low < BESIDE ? a->low : a->first - BESIDE;
    char *to = a->high - a->last < BESIDE ? a->high : a->last + BESIDE;
    memset(from, CANARY, (size_t)(to - from));
    a->array = (instep_array){a->first - below, s->shape, s->strides, of->ndim, dtype};
}

/* Call visit(context, address, i) for each element in C order. */
typedef void (*visitor)(void *context, char *at, size_t i);

static inline void each(const instep_array *array, visitor visit, void *context)
{
    intptr_t index[AXES] = {0};
    size_t count = 1;
    char *at = array->data;
    for (int axis = 0; axis < array->ndim; ++axis) count *= (size_t)array->shape[axis];
    for (size_t i = 0; i < count; ++i) {
        visit(context, at, i);
        for (int axis = array->ndim - 1; axis >= 0; --axis) {
            at += array->strides[axis];
            if (++index[axis] < array->shape[axis]) break;
            at -= array->shape[axis] * array->strides[axis];
            index[axis] = 0;
        }
    }
}

/* ---- what elements hold --------------------------------------------------------------------- */

typedef struct {
    instep_dtype dtype;
    uint32_t seed;
    spread how;
    int whole; /* at most that large, for labels; 0: as the type and `how` have it */
    int sizes; /* not below 0 */
} contents;

static inline void put_some(void *context, char *at, size_t i)
{
    const contents *c = context;
    double value = some_value(c->seed, (uint32_t)i, c->how);
    if (c->dtype >= INSTEP_INT8) {
        const uint64_t bits = hash_number(c->seed ^ hash_number((uint32_t)i));
        const uint64_t whole = c->whole > 0 ? bits % (uint64_t)c->whole : bits << 32 | bits;
        memcpy(at, &whole, (size_t)size_of(c->dtype)); /* little endian */
        return;
    }
    put(at, c->dtype, c->sizes ? fabs(value) : value);
}

static inline void fill_slab(slab *s, contents c)
{
    c.dtype = s->room.array.dtype;
    each(&s->room.array, put_some, &c);
}

/* FNV-1a over the bytes of the elements. */
typedef struct {
    size_t size;
    uint64_t hash;
} digest;

static inline void add_bytes(void *context, char *at, size_t i)
{
    digest *d = context;
    (void)i;
    for (size_t k = 0; k < d->size; ++k)
        d->hash = (d->hash ^ (unsigned char)at[k]) * UINT64_C(0x100000001b3);
}

static inline uint64_t hash_slab(const slab *s)
{
    digest d = {(size_t)size_of(s->room.array.dtype), UINT64_C(0xcbf29ce484222325)};
    if (s->room.array.dtype == INSTEP_LONGDOUBLE && LDBL_MANT_DIG == 64) d.size = 10;
    each(&s->room.array, add_bytes, &d);
    return d.hash;
}

static inline void spoil(void *context, char *at, size_t i)
{
    (void)i;
    memset(at, CANARY, (size_t)size_of(*(instep_dtype *)context));
}

/* Is all beside the elements as it was? Spoils them. */
static inline int slab_intact(slab *s)
{
    arena *a = &s->room;
    each(&a->array, spoil, &a->array.dtype);
    const char *from = a->first - a->low < BESIDE ? a->low : a->first - BESIDE;
    const char *to = a->high - a->last < BESIDE ? a->high : a->last + BESIDE;
    for (; from < to; ++from)
        if ((unsigned char)*from != CANARY) return 0;
    return 1;
}

/* ---- the record ----------------------------------------------------------------------------- */

/* What one run of a case found: a number for each array or sum, under a name. */
typedef struct {
    int size;
    struct {
        const char *name;
        int leaf;
        uint64_t bits;
    } entry[RECORD];
} record;

static inline void note(record *r, const char *name, int leaf, uint64_t bits)
{
    require(r->size < RECORD, "the record is too small");
    r->entry[r->size].name = name;
    r->entry[r->size].leaf = leaf;
    r->entry[r->size++].bits = bits;
}

/* NaN is NaN, whatever its bits. */
static inline void note_number(record *r, const char *name, int leaf, double value)
{
    const double number = value == value ? value : (double)NAN;
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    note(r, name, leaf, bits);
}

typedef struct {
    instep_dtype dtype;
    uint64_t hash;
} mixing;

static inline void mix_element(void *context, char *at, size_t i)
{
    mixing *m = context;
    uint64_t bits = UINT64_C(0xdeadbeef);
    const double value = get(at, m->dtype);
    if (value == value) memcpy(&bits, &value, sizeof bits);
    m->hash = (m->hash ^ bits) * UINT64_C(0x9e3779b97f4a7c15) + i;
    m->hash ^= m->hash >> 32;
}

static inline void note_slab(record *r, const char *name, int leaf, const slab *s)
{
    mixing m = {s->room.array.dtype, 1};
    each(&s->room.array, mix_element, &m);
    note(r, name, leaf, m.hash);
}

/* One way of taking a case. */
typedef struct {
    const char *isa;
    int threads, moved; /* `moved`: arrays may lie elsewhere */
} manner;

static inline void require_same(const record *first, const record *other, manner how)
{
    require(first->size == other->size, "%d and %d entries", first->size, other->size);
    for (int k = 0; k < first->size; ++k)
        require(first->entry[k].bits == other->entry[k].bits,
                "entry %d, %s of leaf %d, differs on %s, %d threads, moved %d", k,
                first->entry[k].name, first->entry[k].leaf, how.isa, how.threads, how.moved);
}

/* Take a case in every manner; all records must be equal. */
static inline void compare_manners(const uint8_t *data, size_t size,
                                   void (*take)(input *in, manner how, record *found))
{
    static const int threads[] = {1, 2, 5};
    static record first, other;
    for (int k = 0; k < 2 || instep_isa_available(k) != NULL; ++k) {
        const char *isa = instep_isa_available(k);
        /* Each level has them moved in some cases, and in the others not. */
        const manner how = {isa ? isa : instep_isa_available(0), threads[k % 3],
                            (k ^ (int)size) & 1};
        record *found = k == 0 ? &first : &other;
        input in = {data, data + size};
        require(instep_isa_select(how.isa) == 0, "%s", how.isa);
        found->size = 0;
        take(&in, how, found);
        require_same(&first, found, how);
    }
}

/* ---- rules ----------------------------------------------------------------------------------- */

/* The format of the k-th state of a rule. */
static inline const char *format_of(int rule, int k)
{
    const char *names = instep_rule_states(rule);
    for (; k > 0; --k) names = strchr(names, ',') + 2;
    const size_t length = strcspn(names, ",");
    for (int state = 0; state < instep_state_count(); ++state)
        if (strlen(instep_state_name(state)) == length &&
            strncmp(instep_state_name(state), names, length) == 0)
            return instep_state_format(state);
    require(0, "%s", names);
    return NULL;
}

static inline int count_states(int rule)
{
    const char *names = instep_rule_states(rule);
    int states = names[0] != '\0';
    for (; *names != '\0'; ++names) states += *names == ',';
    return states;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#ifndef INSTEP_LIBFUZZER
#include "fuzz_main.h"
#endif
#endif
