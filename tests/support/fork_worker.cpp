// A worker for tests of fork servers. Its arguments are what the program does before its first in_worker(): in a fork
// server, and in a worker that is executed.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <pthread.h>
#include <string>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>
#include <tuple>
#include <vector>

#include <drover/worker/serve.hpp>
#include <drover/worker/this_worker.hpp>

#include "support/worker_routines.hpp"

namespace {

using support::leave;

/// Workers that are copies of one process have it in common.
const std::int64_t born = std::chrono::steady_clock::now().time_since_epoch().count();
std::int64_t own = 0;
std::int64_t prepared = 0;

/// Who answers. Of calls that are made together, each worker gets one.
asio::awaitable<std::tuple<int, std::int64_t>> who() {
  asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::milliseconds(20));
  co_await timer.async_wait(asio::use_awaitable);
  co_return std::tuple(static_cast<int>(::getpid()), born);
}

/// A mutex that knows its owner by the id that the C library keeps for the thread.
std::string own_mutex() {
  pthread_mutexattr_t kind;
  pthread_mutex_t mutex;
  ::pthread_mutexattr_init(&kind);
  ::pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_ERRORCHECK);
  ::pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
  ::pthread_mutex_init(&mutex, &kind);
  if (::pthread_mutex_lock(&mutex) != 0) return "not locked";
  int by_other = 0;
  std::thread([&] { by_other = ::pthread_mutex_trylock(&mutex); }).join();
  if (by_other != EBUSY) return "locked by another thread";
  if (::pthread_mutex_lock(&mutex) != EDEADLK) return "locked twice";
  if (::pthread_mutex_unlock(&mutex) != 0) return "not unlocked";
  return "sound";
}

/// The id of the main thread as the kernel and as the C library know it, and whether the kernel knows the list of its
/// robust mutexes.
std::tuple<int, int, bool> thread_id() {
  pthread_mutex_t mutex = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;
  ::pthread_mutex_lock(&mutex);
  const int owner = mutex.__data.__owner;
  ::pthread_mutex_unlock(&mutex);
  void* list = nullptr;
  std::size_t size = 0;
  const bool listed = ::syscall(SYS_get_robust_list, 0, &list, &size) == 0 && list != nullptr;
  return {static_cast<int>(::gettid()), owner, listed};
}

/// A thread that ends with a robust mutex locked: the kernel tells the next one.
std::string robust_mutex() {
  static pthread_mutex_t mutex;
  pthread_mutexattr_t kind;
  ::pthread_mutexattr_init(&kind);
  ::pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
  ::pthread_mutex_init(&mutex, &kind);
  std::thread([] { ::pthread_mutex_lock(&mutex); }).join();
  return ::pthread_mutex_lock(&mutex) == EOWNERDEAD ? "sound" : "not told";
}

std::vector<std::string> descriptors() {
  std::vector<std::string> open;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code ec;
    const std::string file = std::filesystem::read_symlink(entry.path(), ec).string();
    if (!ec && !file.starts_with("/proc/")) open.push_back(entry.path().filename().string());
  }
  return open;
}

drover::Routines routines() {
  drover::Routines routines = support::worker_routines();
  routines.add("who", who)
      .add("own", [] { return ++own; })
      .add("prepared", [] { return prepared; })
      .add("own_mutex", own_mutex)
      .add("robust_mutex", robust_mutex)
      .add("thread_id", thread_id)
      .add("group", [] { return static_cast<int>(::getpgrp()); })
      .add("descriptors", descriptors)
      .add("folder", [] { return std::filesystem::current_path().string(); })
      .add("slot", [] { return drover::this_worker::slot(); })
      .add("variables",
           [] {
             std::map<std::string, std::string> all;
             for (char** variable = environ; *variable != nullptr; ++variable) {
               const std::string text = *variable;
               all.emplace(text.substr(0, text.find('=')), text.substr(text.find('=') + 1));
             }
             return all;
           })
      .add("set_variable", [](std::string name, std::string value) {
        ::setenv(name.c_str(), value.c_str(), 1);
        return std::string(std::getenv(name.c_str()));
      });
  return routines;
}

}  // namespace

int main(int argc, char** argv) {
  std::function<void()> prepare;
  for (int at = 1; at < argc; ++at) {
    const std::string step = argv[at];
    if (step == "thread")
      std::thread([] { support::pass(600'000); }).detach();
    else if (step == "say")
      support::say("started");
    else if (step == "open")  // a file of the program's own, before in_worker()
      (void)!::open("/dev/null", O_RDONLY | O_CLOEXEC);
    else if (step == "prepare")
      prepare = [] { prepared = std::chrono::steady_clock::now().time_since_epoch().count(); };
    else if (step == "print")
      std::printf("printed\n");  // into a buffer: it is no terminal
    else if (step == "wait-if" && at + 1 < argc)
      for (const char* const path = argv[++at]; ::access(path, F_OK) == 0;) support::pass(5);
    else if (step == "prepare-by" && at + 1 < argc)
      prepare = [program = std::string(argv[++at])] {
        const int status = std::system((program + " what-is-this").c_str());
        prepared = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
      };
    else if (step == "prepare-badly")
      prepare = [] { throw std::runtime_error("no model"); };
    else if (step == "prepare-long")
      prepare = [] { support::say(std::to_string(::getpid())), support::pass(600'000); };
    else if (step == "exit")
      leave(9);
    else if (step == "exit-if" && at + 1 < argc) {
      if (::access(argv[++at], F_OK) == 0) leave(8);
    } else if (step == "parent")  // does not call in_worker() at all
      support::pass(600'000);
    else
      leave(96);
  }
  if (!drover::in_worker(prepare)) return 3;
  const drover::Routines all = routines();
  return drover::serve(all);
}
