/* cpu.h: what this CPU and operating system can run. */
#ifndef INSTEP_CPU_H
#define INSTEP_CPU_H

/* x86-64 microarchitecture level as in the System V ABI: 3 (AVX2, FMA, BMI2, F16C), 4 (AVX-512
 * F, BW, CD, DQ, VL), else 1. Always 1 on other machines. */
int instep_cpu_level(void);

#endif
