/* fuzz_state.c: states encoded and decoded, and powers in any order. */
#include "fuzz.h"

enum { VALUES, CODES, SCALES, SLABS, BLOCK = 128, LONGEST = 16385 };

static slab slabs[SLABS];

static char *data_of(int which) { return slabs[which].room.array.data; }

/* The scales of decoded values: the same, or 0 where all values are. */
static void require_scales(const float *before, const float *after, const float *values,
                           intptr_t count)
{
    for (intptr_t block = 0; block * BLOCK < count; ++block) {
        int zero = 1;
        for (intptr_t i = block * BLOCK; i < count && i < (block + 1) * BLOCK; ++i)
            zero &= values[i] == 0;
        const float wanted = zero ? 0 : before[block];
        require(same((const char *)&wanted, (const char *)&after[block], INSTEP_FLOAT32),
                "the scale of block %d: %a, then %a", (int)block, (double)wanted,
                (double)after[block]);
    }
}

/* Encode, decode, and encode what was decoded: the same codes. */
static void take_codes(input *in, manner how, record *found)
{
    static const instep_dtype kinds[] = {INSTEP_INT8, INSTEP_UINT8, INSTEP_BFLOAT16};
    const instep_dtype kind = kinds[choose(in, 3)];
    const intptr_t count =
        one_in(in, 8) ? (int[]){512, 513, 16384, LONGEST}[choose(in, 4)] : choose(in, 256);
    const extent values = {1, {count}}, blocks = {1, {(count + BLOCK - 1) / BLOCK}};
    const placing p = {.at_end = how.moved};
    lay(&slabs[VALUES], &values, INSTEP_FLOAT32, &p);
    lay(&slabs[CODES], &values, kind, &p);
    lay(&slabs[SCALES], &blocks, INSTEP_FLOAT32, &p);
    const contents c = {.seed = next_byte(in),
                        .how = (spread)choose(in, 3),
                        .sizes = kind == INSTEP_UINT8 && !one_in(in, 8)};
    fill_slab(&slabs[VALUES], c);
    float *scales = kind == INSTEP_BFLOAT16 ? NULL : (float *)(void *)data_of(SCALES);
    float *numbers = (float *)(void *)data_of(VALUES);
    const uint64_t before = hash_slab(&slabs[VALUES]);
    instep_state_encode(numbers, (size_t)count, kind, data_of(CODES), scales);
    require(hash_slab(&slabs[VALUES]) == before, "values were written");
    const uint64_t codes = hash_slab(&slabs[CODES]);
    float units[LONGEST / BLOCK + 1];
    memcpy(units, data_of(SCALES), (size_t)blocks.length[0] * sizeof *units);
    instep_state_decode(data_of(CODES), scales, (size_t)count, kind, numbers);
    require(hash_slab(&slabs[CODES]) == codes, "codes were written");
    note_slab(found, "values", 0, &slabs[VALUES]);
    note_slab(found, "codes", 0, &slabs[CODES]);
    if (scales != NULL) note_slab(found, "scales", 0, &slabs[SCALES]);
    instep_state_encode(numbers, (size_t)count, kind, data_of(CODES), scales);
    require(hash_slab(&slabs[CODES]) == codes, "the codes of %d decoded values", (int)count);
    if (scales != NULL) require_scales(units, scales, numbers, count);
    for (int k = 0; k < SLABS; ++k) require(slab_intact(&slabs[k]), "beside array %d", k);
}

/* What the memory holds changes nothing, in whatever order exponents and bases come. */
static void take_powers(input *in, record *found)
{
    static const double some[] = {0, 0.5, 0.9, 0.999, 1, 1 - 0x1p-53, 0x1p-1074, 1e-300};
    instep_power_memory memory = {0};
    int64_t exponent = 0;
    double base[2] = {0.9, 0.999};
    for (int k = choose(in, 24); k >= 0; --k) {
        double power[2], plain[2];
        const int kind = choose(in, 6);
        if (kind == 4) base[choose(in, 2)] = next_byte(in) / 255.0;
        if (kind == 5) base[choose(in, 2)] = some[choose(in, 8)];
        exponent = kind < 3 ? exponent + kind : (int64_t)next_byte(in) << choose(in, 32);
        instep_powers(base, exponent, power, &memory);
        instep_powers(base, exponent, plain, NULL);
        for (int i = 0; i < 2; ++i) {
            require(memcmp(&power[i], &plain[i], sizeof plain[i]) == 0, "%.17g ** %lld is %.17g",
                    base[i], (long long)exponent, power[i]);
            require(plain[i] >= 0 && plain[i] <= 1, "%.17g ** %lld is %.17g", base[i],
                    (long long)exponent, plain[i]);
            note_number(found, "power", i, plain[i]);
        }
    }
}

static void take(input *in, manner how, record *found)
{
    if (one_in(in, 3)) take_powers(in, found);
    else take_codes(in, how, found);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    compare_manners(data, size, take);
    return 0;
}
