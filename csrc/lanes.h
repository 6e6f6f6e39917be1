/* lanes.h: the fixed shape of every sum: 16 float64 lanes, then this tree. */
#ifndef INSTEP_LANES_H
#define INSTEP_LANES_H

enum { INSTEP_LANES = 16 };

static inline double lane_sum(const double *lane)
{
    double half[8];
    for (int j = 0; j < 8; ++j) half[j] = lane[j] + lane[j + 8];
    for (int j = 0; j < 4; ++j) half[j] += half[j + 4];
    return (half[0] + half[2]) + (half[1] + half[3]);
}

#endif
