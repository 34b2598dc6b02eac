// A global that is destroyed at the program's end may still start a process: drover's exit hook comes after it, also
// where what is no template is in another file, which is linked and so initialised later.
#include <cstdio>
#include <exception>
#include <unistd.h>

#include <drover/os/process.hpp>

namespace {

struct AtExit {
  ~AtExit() {
    try {
      drover::Process::spawn({.program = "true"});
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
      ::_exit(1);
    }
  }
} const at_exit;

}  // namespace

int main() { drover::Process::spawn({.program = "true"}); }
