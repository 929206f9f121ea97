/* Prints the instructions of sbseal's filter; with an argument, of the one that has calls noted. Reads
 * calls from standard input, and prints after that what sbseal itself says to each. */
#define main sbseal_main
#include SBSEAL
#undef main

int main(int count, char **arguments) {
    (void)arguments;
    noted = count > 1;
    build_filter();
    unsigned size = length;
    fwrite(&size, sizeof size, 1, stdout);
    fwrite(filter, sizeof *filter, length, stdout);
    for (struct seccomp_data call; fread(&call, sizeof call, 1, stdin) == 1;) {
        unsigned answer = verdict(&call);
        fwrite(&answer, sizeof answer, 1, stdout);
    }
    return ferror(stdout) != 0;
}
