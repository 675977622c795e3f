/* A disk that keeps nothing but what was synced. LD_PRELOAD it into a process; see forgetful_disk.py.

   Whenever a file is synced, its content as it was then is copied to FORGETFUL_DISK_KEPT under the
   file's identity; whenever a folder is synced, which names it had then. What the disk would have
   after a power cut follows from these copies. A sync takes as many milliseconds longer as the
   file `sync_ms` there says at the time. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Inode numbers are used again, so that the time of birth belongs to a file's identity. */
static int identity(int folder, const char *name, char *text, size_t size, unsigned *mode) {
    struct statx status;
    int flags = AT_SYMLINK_NOFOLLOW | (*name ? 0 : AT_EMPTY_PATH);
    if (statx(folder, name, flags, STATX_BASIC_STATS | STATX_BTIME, &status) != 0) return -1;
    *mode = status.stx_mode;
    snprintf(text, size, "%llu-%lld.%u", (unsigned long long)status.stx_ino,
             (long long)status.stx_btime.tv_sec, (unsigned)status.stx_btime.tv_nsec);
    return 0;
}

static void keep_names(int descriptor, FILE *kept) {
    int again = openat(descriptor, ".", O_RDONLY | O_DIRECTORY);
    DIR *folder = again < 0 ? NULL : fdopendir(again);
    if (!folder) abort();
    for (struct dirent *entry; (entry = readdir(folder));) {
        char file[96];
        unsigned mode;
        if (identity(again, entry->d_name, file, sizeof file, &mode) == 0 && S_ISREG(mode))
            fprintf(kept, "%s %s\n", file, entry->d_name);
    }
    closedir(folder);
}

static void keep_content(int descriptor, FILE *kept, off_t size) {
    char path[64], block[65536];
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    int source = open(path, O_RDONLY); /* the file's own descriptor may be for writing alone */
    if (source < 0) abort();
    for (off_t done = 0; done < size;) {
        size_t wanted = size - done < (off_t)sizeof block ? (size_t)(size - done) : sizeof block;
        ssize_t got = read(source, block, wanted);
        if (got <= 0) abort();
        fwrite(block, 1, (size_t)got, kept);
        done += got;
    }
    close(source);
}

static void wait_as_told(const char *folder) {
    char path[4096];
    int sync_ms = 0;
    snprintf(path, sizeof path, "%s/sync_ms", folder);
    FILE *told = fopen(path, "r");
    if (!told || fscanf(told, "%d", &sync_ms) != 1) abort();
    fclose(told);
    usleep((useconds_t)sync_ms * 1000);
}

static int synced(int descriptor, const char *call) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, call);
    const char *folder = getenv("FORGETFUL_DISK_KEPT");
    char file[96], target[4096], partial[4160];
    struct stat before;
    unsigned mode;
    if (!folder || fstat(descriptor, &before) != 0) return real(descriptor);
    if (identity(descriptor, "", file, sizeof file, &mode) != 0) return real(descriptor);
    if (!S_ISREG(mode) && !S_ISDIR(mode)) return real(descriptor);
    wait_as_told(folder);
    int answer = real(descriptor);
    if (answer != 0) return answer;
    snprintf(target, sizeof target, "%s/%s", folder, file);
    snprintf(partial, sizeof partial, "%s.%d.%d.partial", target, (int)getpid(), descriptor);
    FILE *kept = fopen(partial, "w");
    if (!kept) abort();
    if (S_ISDIR(mode))
        keep_names(descriptor, kept);
    else
        keep_content(descriptor, kept, before.st_size);
    if (fflush(kept) != 0) abort();
    struct timespec times[2] = {before.st_atim, before.st_mtim};
    futimens(fileno(kept), times);
    if (fclose(kept) != 0 || rename(partial, target) != 0) abort();
    return 0;
}

int fsync(int descriptor) { return synced(descriptor, "fsync"); }

int fdatasync(int descriptor) { return synced(descriptor, "fdatasync"); }
