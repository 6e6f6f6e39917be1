/* x86-64-v4, held to 256-bit vectors (docs/performance notes in docs/architecture.md). */
#define INSTEP_ISA avx512
#include "variant.h"
