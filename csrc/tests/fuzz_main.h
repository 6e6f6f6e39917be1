/* fuzz_main.h: a main for the fuzz targets without libFuzzer.
 *
 * `TARGET PATH...` takes the cases in files and folders, `TARGET -n COUNT` pseudo-random ones. */
#ifndef INSTEP_TESTS_FUZZ_MAIN_H
#define INSTEP_TESTS_FUZZ_MAIN_H

#include <dirent.h>

#include "fuzz.h"

static void replay_file(const char *path)
{
    static uint8_t bytes[LONGEST_CASE];
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(1);
    }
    const size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    LLVMFuzzerTestOneInput(bytes, size);
}

static long replay_folder(const char *path)
{
    char name[4096];
    long count = 0;
    DIR *folder = opendir(path);
    if (folder == NULL) {
        replay_file(path);
        return 1;
    }
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        replay_file(name);
        ++count;
    }
    closedir(folder);
    return count;
}

static long replay_random(long count)
{
    static uint8_t bytes[512];
    for (long k = 0; k < count; ++k) {
        const size_t size = hash_number((uint32_t)k) % sizeof bytes;
        for (size_t i = 0; i < size; ++i)
            bytes[i] = (uint8_t)hash_number((uint32_t)k * 0x9e3779b9u + (uint32_t)i);
        LLVMFuzzerTestOneInput(bytes, size);
    }
    return count;
}

int main(int count, char **arguments)
{
    long cases = 0;
    for (int k = 1; k < count; ++k) {
        const int random = strcmp(arguments[k], "-n") == 0 && k + 1 < count;
        cases +=
            random ? replay_random(strtol(arguments[++k], NULL, 10)) : replay_folder(arguments[k]);
    }
    printf("%ld cases, nothing found\n", cases);
    return cases == 0; /* a path that is wrong finds nothing either */
}
#endif
