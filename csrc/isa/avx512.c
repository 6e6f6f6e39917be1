/* x86-64-v4: 512-bit vectors, twice as fast as 256 where the CPU is that wide. */
#define INSTEP_ISA avx512
#include "variant.h"
