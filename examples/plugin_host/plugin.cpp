// A plug-in for plugin_host that cannot be trusted. It returns its input in capital letters, unless that names one of
// the evils below.
#include "plugin.hpp"

#include <algorithm>
#include <cctype>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

bool is_socket(int descriptor) {
  struct stat status{};
  return ::fstat(descriptor, &status) == 0 && S_ISSOCK(status.st_mode);
}

void segfault() {
  volatile int* nowhere = nullptr;
  *nowhere = 1;
}

void spin() {
  for (volatile bool forever = true; forever;) {
  }
}

void leak() {
  for (;;) static_cast<char* volatile*>(::operator new(std::size_t{1} << 20))[0] = nullptr;
}

/// Writes to the sockets of the worker, in place of the worker.
void forge() {
  const std::string garbage(1000, '\xff');
  for (int descriptor = 0; descriptor < 1024; ++descriptor)
    if (is_socket(descriptor)) (void)::send(descriptor, garbage.data(), garbage.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

void close_sockets() {
  for (int descriptor = 0; descriptor < 1024; ++descriptor)
    if (is_socket(descriptor)) ::close(descriptor);
}

/// Leaves a process behind that has the worker's sockets, too.
void leave_process() {
  if (::fork() == 0)
    for (;;) ::pause();
}

/// Goes on in two processes, which both take themselves for the worker.
void go_on_twice() { (void)!::fork(); }

}  // namespace

extern "C" int drover_plugin(const char* input, char* output, std::size_t size) {
  static const std::map<std::string_view, void (*)()> evils{
      {"segfault", segfault},        {"spin", spin},          {"leak", leak},         {"forge", forge},
      {"close", close_sockets},      {"fork", leave_process}, {"twice", go_on_twice}, {"exit", [] { std::exit(0); }},
      {"_exit", [] { ::_exit(0); }},
  };
  const std::string_view text = input;
  if (const auto evil = evils.find(text); evil != evils.end()) evil->second();
  if (text == "fail") return 7;
  const std::size_t length = std::min(text.size(), size - 1);
  std::transform(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(length), output,
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  output[length] = '\0';
  return 0;
}
