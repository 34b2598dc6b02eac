// A worker to test with. Its arguments are steps on the way to serve(), done one after the other. It is guarded from
// the beginning, as the README has it, unless the first step is "unarmed".
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <exception>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdexcept>
#include <string>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/io_context.hpp>

#include <drover/pool/worker_pool.hpp>
#include <drover/run.hpp>
#include <drover/wire/protocol.hpp>
#include <drover/worker/serve.hpp>

#include "support/worker_routines.hpp"

namespace {

using support::leave;
using support::say;

/// The header of a frame, written down once more: what a worker sends that was not made with this library.
struct RawHeader {
  std::uint32_t size = 0;
  std::uint8_t type = 1;  // HELLO
  std::uint8_t status = 0;
  std::uint16_t core = 0;
  std::uint32_t slot = 0;
  std::uint32_t zero = 0;
  std::uint64_t id = 0;
};
static_assert(sizeof(RawHeader) == 24);

void to_control(const void* bytes, std::size_t size) {
  if (::write(3, bytes, size) != static_cast<ssize_t>(size)) leave(97);
}

void announce(std::size_t routines) {
  drover::detail::ByteBuffer body;
  drover::Encoder(body).put(drover::detail::Hello{"0", std::vector<std::string>(routines, "x")});
  RawHeader header;
  header.size = static_cast<std::uint32_t>(body.size());
  header.id = std::uint64_t{0x64726f76} << 32 | 1;
  to_control(&header, sizeof header);
  for (auto rest = body.view(); !rest.empty();) {
    const ssize_t written = ::write(3, rest.data(), rest.size());
    if (written >= 0) {
      rest = rest.subspan(static_cast<std::size_t>(written));
      continue;
    }
    if (errno != EAGAIN) return;  // the parent has had enough of it
    pollfd writable{3, POLLOUT, 0};
    ::poll(&writable, 1, -1);
  }
}

/// A main() that forgot that it may be a worker: it goes on as the program it is.
int forgetful() {
  try {
    drover::PoolOptions options;
    options.size = 2;
    drover::run(drover::with_pool(options, [](drover::WorkerPool&) -> asio::awaitable<void> { co_return; }));
    return 90;
  } catch (const std::logic_error&) {
    return 77;
  } catch (const std::exception&) {
    return 91;
  }
}

}  // namespace

int main(int argc, char** argv) {
  int at = 1, many_routines = 0;
  if (argc > 1 && std::strcmp(argv[1], "unarmed") == 0)
    ++at;
  else
    drover::in_worker();
  const auto next = [&]() -> std::string {
    if (at >= argc) leave(98);
    return argv[at++];
  };
  const auto number = [&] { return std::atoi(next().c_str()); };
  while (at < argc) {
    const std::string step = next();
    if (step == "say") {
      say(next());
    } else if (step == "sleep") {
      support::pass(number());
    } else if (step == "pause") {
      for (;;) ::pause();
    } else if (step == "exit") {
      leave(number());
    } else if (step == "crash") {
      support::crash(number());
    } else if (step == "ignore") {
      ::signal(number(), SIG_IGN);
    } else if (step == "stop") {
      ::raise(SIGSTOP);
    } else if (step == "grandchild") {
      support::grandchild(next());
    } else if (step == "garbage") {
      to_control("this is not what a worker says, not at all", 42);
    } else if (step == "version") {
      RawHeader header;
      header.id = std::uint64_t{0x64726f76} << 32 | static_cast<std::uint64_t>(number());
      to_control(&header, sizeof header);
    } else if (step == "reply") {  // to what nobody has asked
      RawHeader header;
      header.type = 6;
      header.size = 24;
      to_control(&header, sizeof header);
      to_control("twenty-four bytes of it.", 24);
    } else if (step == "huge-frame") {
      RawHeader header;
      header.size = std::uint32_t{1} << 31;
      header.id = std::uint64_t{0x64726f76} << 32 | 1;
      to_control(&header, sizeof header);
    } else if (step == "half-frame") {
      RawHeader header;
      header.size = 100;
      header.id = std::uint64_t{0x64726f76} << 32 | 1;
      to_control(&header, sizeof header);
      to_control("only so much", 12);
    } else if (step == "announce") {  // so many routines
      announce(static_cast<std::size_t>(number()));
    } else if (step == "many-routines") {  // with names of 64 characters
      many_routines = number();
    } else if (step == "close-channels") {
      support::close_channels();
    } else if (step == "forget") {
      return forgetful();
    } else if (step == "unsubreaper") {
      ::prctl(PR_SET_CHILD_SUBREAPER, 0);
    } else {
      leave(96);
    }
  }
  drover::Routines routines = support::worker_routines();
  for (int i = 0; i < many_routines; ++i) {
    std::string name = std::to_string(i);
    name.insert(0, 64 - name.size(), 'r');
    routines.add(std::move(name), [i] { return i; });
  }
  return drover::serve(routines);
}
