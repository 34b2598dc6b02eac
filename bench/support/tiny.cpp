// A program that does next to nothing: it writes a byte to stderr and ends, or stays if it is given an argument.
#include <unistd.h>

int main(int argc, char**) {
  if (::write(2, "x", 1) != 1) return 1;
  while (argc > 1) ::pause();
}
