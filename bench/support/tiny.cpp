// A child that does as little as possible: it writes a byte to stderr and exits. With an argument it runs until a
// signal kills it.
#include <unistd.h>

int main(int argc, char**) {
  if (::write(2, "x", 1) != 1) return 1;
  while (argc > 1) ::pause();
}
