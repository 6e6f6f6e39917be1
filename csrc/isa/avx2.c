/* x86-64-v3: 256-bit vectors. FMA is in the flags but contraction is off: same bits. */
#define INSTEP_ISA avx2
#include "variant.h"
