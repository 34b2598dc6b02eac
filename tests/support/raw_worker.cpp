// A worker for tests that play its parent by raw system calls.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <new>
#include <signal.h>
#include <sstream>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/error.hpp>
#include <asio/post.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/wire/detail/process_role.hpp>
#include <drover/worker/serve.hpp>

#include "support/sanitizers.hpp"

/// An allocator with a lock, which a routine can hold for ever.
std::mutex allocator;
[[gnu::noinline]] void* operator new(std::size_t size) {
  const std::lock_guard held(allocator);
  if (void* const memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

/// The test reads standard output to know how far the worker is.
void tell(char what) { [[maybe_unused]] const auto written = ::write(STDOUT_FILENO, &what, 1); }

volatile bool endless = true;
void spin() {
  while (endless) {
#ifdef DROVER_TEST_TSAN
    ::usleep(1);  // it runs signal handlers only where the program calls something
#endif
  }
}

bool hang_at_exit = false;
struct HangingStatic {
  ~HangingStatic() {
    if (!hang_at_exit) return;
    tell('d');
    spin();
  }
} hanging;

struct Unusual {};

/// Sleeps; if it is cancelled, cleans up for a while by awaiting, and tells.
asio::awaitable<std::string> nap(int ms, int clean_up_ms) {
  tell('b');
  asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::milliseconds(ms));
  std::error_code ec;
  co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ec));
  if (!ec) co_return "slept";
  co_await asio::this_coro::reset_cancellation_state();
  timer.expires_after(std::chrono::milliseconds(clean_up_ms));
  co_await timer.async_wait(asio::use_awaitable);
  tell('c');
  throw std::system_error(ec);
}

asio::awaitable<void> wait_for(int ms) {
  asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::milliseconds(ms));
  co_await timer.async_wait(asio::use_awaitable);
}

/// Blocks the main thread after it has waited.
asio::awaitable<void> block_after(int wait_ms, int block_ms) {
  co_await wait_for(wait_ms);
  tell('b');
  std::this_thread::sleep_for(std::chrono::milliseconds(block_ms));
}

/// The same when its call has ended.
asio::awaitable<void> block_behind(int wait_ms, int block_ms) {
  asio::co_spawn(co_await asio::this_coro::executor, block_after(wait_ms, block_ms), asio::detached);
}

std::string in_child(const std::string& command) {
  const std::string file = "/tmp/drover-raw-worker-" + std::to_string(::getpid());
  const int result = std::system(("{ " + command + "; } > " + file).c_str());
  std::ostringstream text;
  text << std::ifstream(file).rdbuf() << result;
  std::filesystem::remove(file);
  return text.str();
}

/// A process in the worker's group that ends only when it is killed.
int grandchild() {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::signal(SIGTERM, SIG_IGN);
    for (int fd = 0; fd < 64; ++fd) ::close(fd);
    for (;;) ::pause();
  }
  return pid;
}

drover::Routines make_routines() {
  drover::Routines routines;
  routines.add("echo", [](std::string text) { return text; })
      .add("nothing", [] {})
      .add("add", [](int a, long b) { return a + b; })
      .add("nap", nap)
      .add("block_after", block_after)
      .add("block_behind", block_behind)
      .add("napping_view",
           [](std::string_view text) -> asio::awaitable<std::string> {
             asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::milliseconds(50));
             co_await timer.async_wait(asio::use_awaitable);
             co_return std::string(text) + "!";
           })
      .add("bytes", [](std::uint64_t size) { return std::string(size, 'x'); })
      .add("spin",
           [] {
             tell('b');
             spin();
           })
      .add("hold_the_allocator",
           [] {
             const std::lock_guard held(allocator);
             tell('b');
             spin();
           })
      .add("work",
           [](int ms) {
             tell('b');
             std::this_thread::sleep_for(std::chrono::milliseconds(ms));
             return "worked";
           })
      .add("until_stopped",
           [](std::stop_token stop) {
             tell('b');
             while (!stop.stop_requested()) std::this_thread::yield();
             tell('c');
             return "stopped";
           })
      .add("abort_when_stopped",
           [](std::stop_token stop) {
             tell('b');
             while (!stop.stop_requested()) std::this_thread::yield();
             throw std::system_error(asio::error::operation_aborted);
           })
      .add("blocked_in_callback",
           [](std::stop_token stop) {
             std::atomic<int> blocked{-1};
             const std::stop_callback look(stop, [&] {
               sigset_t mask;
               ::pthread_sigmask(SIG_SETMASK, nullptr, &mask);
               int count = 0;
               for (int signo = 1; signo <= SIGRTMAX; ++signo) count += ::sigismember(&mask, signo) == 1 ? 1 : 0;
               blocked = count;
             });
             tell('b');
             while (blocked < 0) std::this_thread::yield();
             return blocked.load();
           })
      .add("coroutine_until_stopped",
           [](std::stop_token stop) -> asio::awaitable<int> {
             std::atomic<int> calls{0};
             std::stop_callback count(stop, [&] { ++calls; });
             tell('b');
             asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::seconds(30));
             std::error_code ec;
             co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ec));
             while (calls == 0) std::this_thread::yield();
             co_return calls.load();
           })
      .add("block_stop_callback",
           [](std::stop_token stop) {
             std::stop_callback never_ends(stop, [] {
               tell('c');
               spin();
             });
             tell('b');
             spin();
           })
      .add("blocking_read",
           [](std::string path) {
             const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
             tell('b');
             char byte = 0;
             const auto got = ::read(fd, &byte, 1);
             const int error = got < 0 ? errno : 0;
             ::close(fd);
             return error;
           })
      .add("throw_error", [] { throw std::runtime_error("as it goes"); })
      .add("throw_unusual", [] { throw Unusual{}; })
      .add("throw_int", []() -> asio::awaitable<void> { throw 7; })
      .add("throw_long", [] { throw std::runtime_error(std::string(1'000'000, 'x')); })
      .add("no_memory", [] { throw std::bad_alloc(); })
      .add("aborts_by_itself",
           []() -> asio::awaitable<void> { throw std::system_error(asio::error::operation_aborted); })
      .add("environment", [] { return std::string(std::getenv("DROVER_WORKER") == nullptr ? "gone" : "there"); })
      .add("in_child", in_child)
      .add("grandchild", grandchild)
      .add("crash_when_stopped",
           [](std::stop_token stop) {
             tell('b');
             while (!stop.stop_requested()) std::this_thread::yield();
             ::raise(SIGABRT);
           })
      .add("hang_at_exit", [] { hang_at_exit = true; })
      .add("children", [] { return ::waitpid(-1, nullptr, WNOHANG) < 0 && errno == ECHILD ? 0 : 1; })
      .add("signals", [](int count) {
        tell('b');
        for (int i = 0; i < count; ++i) ::raise(i % 3 == 0 ? SIGTERM : SIGINT);
      });
  return routines;
}

}  // namespace

int main(int argc, char** argv) {
  ::signal(SIGPIPE, [](int) {});  // tell() goes on when the test has gone; not SIG_IGN, which children would inherit
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "ask-late") {
    // The environment is what says so, before in_worker() has been asked.
    tell(drover::detail::booting_as_worker() ? 'y' : 'n');
    tell(drover::in_worker() ? 'y' : 'n');
    tell(drover::detail::booting_as_worker() ? 'y' : 'n');
    return 0;
  }
  if (!drover::in_worker()) {
    tell('n');
    try {
      drover::serve(drover::Routines());
    } catch (const std::logic_error&) {
      return 42;
    }
    return 43;
  }
  if (mode == "slow-boot") {
    tell('b');
    for (;;) ::pause();
  }
  if (mode == "boot-grandchild") {
    grandchild();
    tell('b');
    spin();
  }
  const drover::Routines routines = make_routines();
  const int result = drover::serve(routines);
  try {
    drover::serve(routines);
  } catch (const std::logic_error&) {
    return result;
  }
  return 44;
}
