/* Counts primes with four threads. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { THREADS = 4, LIMIT = 400000 };

static void *count(void *first) {
    long found = 0;
    for (long number = (long)first; number < LIMIT; number += THREADS) {
        long divisor = 2;
        while (divisor * divisor <= number && number % divisor)
            divisor++;
        found += number > 1 && divisor * divisor > number;
    }
    return (void *)found;
}

int main(void) {
    pthread_t threads[THREADS];
    long sum = 0;
    for (long i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, count, (void *)i))
            return EXIT_FAILURE;
    for (int i = 0; i < THREADS; i++) {
        void *found;
        pthread_join(threads[i], &found);
        sum += (long)found;
    }
    printf("%ld\n", sum);
    return EXIT_SUCCESS;
}
