/* cpu.c: cpuid and xgetbv. Bit positions: Intel SDM volume 2A, CPUID; xgetbv tells whether the
 * operating system saves the wide registers (a CPU may have AVX that the kernel does not). */
#include "cpu.h"

#include <stdint.h>

#if defined(__x86_64__) || defined(_M_X64)

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
static void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    __cpuidex((int *)out, (int)leaf, (int)subleaf);
}
static uint64_t saved_registers(void) { return _xgetbv(0); }
#else
#include <cpuid.h>
static void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    __cpuid_count(leaf, subleaf, out[0], out[1], out[2], out[3]);
}
static uint64_t saved_registers(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}
#endif

static int has(uint32_t word, uint32_t bits) { return (word & bits) == bits; }

int instep_cpu_level(void)
{
    enum { EAX, EBX, ECX, EDX };
    const uint32_t fma = 1u << 12, movbe = 1u << 22, xsave = 1u << 27, avx = 1u << 28,
                   f16c = 1u << 29, lzcnt = 1u << 5;
    const uint32_t bmi1 = 1u << 3, avx2 = 1u << 5, bmi2 = 1u << 8;
    const uint32_t avx512 = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31;
    uint32_t first[4], seventh[4], extended[4];
    cpuid(0, 0, first);
    if (first[EAX] < 7) return 1;
    cpuid(1, 0, first);
    cpuid(7, 0, seventh);
    cpuid(0x80000001u, 0, extended);
    if (!has(first[ECX], fma | movbe | xsave | avx | f16c)) return 1;
    if (!has(seventh[EBX], bmi1 | avx2 | bmi2) || !has(extended[ECX], lzcnt)) return 1;
    const uint64_t saved = saved_registers();
    if ((saved & 0x06) != 0x06) return 1;                               /* xmm and ymm */
    if (!has(seventh[EBX], avx512) || (saved & 0xe6) != 0xe6) return 3; /* and zmm, masks */
    return 4;
}

#else

int instep_cpu_level(void) { return 1; }

#endif
