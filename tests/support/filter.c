/* Prints the instructions of sbseal's filter. */
#define main sbseal_main
#include SBSEAL
#undef main

int main(void) {
    build_filter();
    return fwrite(filter, sizeof *filter, length, stdout) != length;
}
