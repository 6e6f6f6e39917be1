/* rng.h: random bits that are a function of (seed, step, leaf, element, stream) and of nothing
 * else, so that a run can be repeated, resumed, and cut among threads and vectors in any way.
 *
 * A key of 64 bits is mixed per piece and word; an element gets 32 bits from it and from its place
 * in the piece, by integer operations that every instruction set has for vectors. Streams share a
 * word: an even one has its upper 16 bits, an odd one its lower 16. */
#ifndef INSTEP_RNG_H
#define INSTEP_RNG_H

#include "plan.h"

typedef struct {
    uint32_t first, second;
} random_key;

/* One step of splitmix64 (Steele, Lea and Flood, OOPSLA 2014) from state `z`. */
static inline uint64_t random_mix(uint64_t z)
{
    z += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static inline random_key random_key_of(const instep_step_options *options, uint32_t leaf,
                                       size_t start, uint32_t word)
{
    uint64_t z = random_mix(options->seed);
    z = random_mix(z ^ options->step);
    z = random_mix(z ^ leaf);
    z = random_mix(z ^ (2 * (uint64_t)(start / INSTEP_PIECE) + word));
    return (random_key){(uint32_t)z, (uint32_t)(z >> 32)};
}

static const uint32_t GOLDEN = UINT32_C(0x9e3779b9); /* 2^32 / 1.618... */

/* The key of a piece as it is for elements from `start` on. */
static inline random_key random_key_at(random_key key, size_t start)
{
    key.first += (uint32_t)(start % INSTEP_PIECE) * GOLDEN;
    return key;
}

/* 32 random bits of an element, whose key becomes that of the next one: a Weyl sequence from one
 * half of the key, mixed by one multiplication after the other half. docs/math.md says how random
 * that is. The multiplier is from Chris Wellons' hash-prospector (public domain). */
static inline uint32_t random_next(random_key *key)
{
    const uint32_t place = key->first;
    const uint32_t x = (place ^ place >> 15 ^ key->second) * UINT32_C(0x735a2d97);
    key->first += GOLDEN;
    return x ^ x >> 16;
}

/* word[i] = the random bits of element start + i. */
static void draw(uint32_t *restrict word, random_key key, size_t start, size_t n)
{
    key = random_key_at(key, start);
    for (size_t i = 0; i < n; ++i) word[i] = random_next(&key);
}

/* The 16 bits of a stream; `odd` must be a constant for the loop to have no branch. */
static inline uint32_t random_share(uint32_t word, int odd)
{
    return odd ? word & UINT32_C(0xffff) : word >> 16;
}

#endif
