# A C program with threads and shared memory is compiled in the workspace and runs there; so does a library it loads.
set -eu
cat > sum.c <<'END'
int sum(int a, int b) { return a + b; }
END
cat > main.c <<'END'
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static atomic_int count;
static void *add(void *unused) {
    for (int i = 0; i < 10000; i++) count++;
    return unused;
}

int main(void) {
    pthread_t threads[8];
    for (int i = 0; i < 8; i++) if (pthread_create(&threads[i], NULL, add, NULL)) return 1;
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!fork()) { *shared = 42; _exit(0); }
    wait(NULL);
    int (*sum)(int, int) = (int (*)(int, int))dlsym(dlopen("./libsum.so", RTLD_NOW), "sum");
    printf("%d %d %d %.3f\n", count, *shared, sum(2, 3), sqrt(2));
}
END
gcc -O2 -Wall -Werror -shared -fPIC -o libsum.so sum.c
gcc -O2 -Wall -Werror -pthread -o main main.c -ldl -lm
./main
cp main /tmp/main && /tmp/main
cat > Makefile <<'END'
all: ; @echo made by $(MAKELEVEL)
END
make -s
