/* The floor of the platform: SSE2 on x86-64, NEON on aarch64. */
#define INSTEP_ISA baseline
#include "variant.h"
