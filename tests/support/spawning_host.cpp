// A program that starts a process while another of its threads ends all that there are. At each unlock of a mutex
// during the start, the other thread may go first: every order in which the two can lock is tried, however busy the
// machine is.
#include <atomic>
#include <chrono>
#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <thread>
#include <unistd.h>

#include <drover/os/exec.hpp>
#include <drover/os/process.hpp>

#include "support/host_program.hpp"

namespace {

using namespace host;

thread_local bool starting = false;  // on this thread, a start that the other thread has to meet
std::atomic<bool> clearing{false};   // the other thread is in prepare_for_exec()
std::atomic<int> meetings{0};        // how often it was

// Returns when the other thread is done, or presumably waits for this one.
void clear_meanwhile() {
  if (clearing.exchange(true)) return;
  ++meetings;
  std::thread([] {
    drover::prepare_for_exec();
    clearing = false;
  }).detach();
  for (int i = 0; clearing && i < 100; ++i) ::poll(nullptr, 0, 1);
}

}  // namespace

// Instead of the one in the C library, which it calls.
extern "C" int pthread_mutex_unlock(pthread_mutex_t* mutex) noexcept {
  using Unlock = int (*)(pthread_mutex_t*);
  static std::atomic<Unlock> unlock{nullptr};
  if (unlock == nullptr) unlock = reinterpret_cast<Unlock>(::dlsym(RTLD_NEXT, "pthread_mutex_unlock"));
  const int result = unlock.load()(mutex);
  if (starting) {
    starting = false;
    clear_meanwhile();
    starting = true;
  }
  return result;
}

// The first argument is the test child's path.
int main(int, char** argv) {
  child_program = argv[1];
  expect(::getpgrp() == ::getpid(), "this program leads a process group");
  ::signal(SIGTERM, [](int) { expect(false, "no signal reaches the program itself"); });
  expect(run(Process::spawn(child({})).wait()).success(), "what is created once is there");
  Command command = child({"pause"});
  command.out = command.err = Stdio::null();  // the test waits for the end of this program's
  const auto start = drover::Clock::now();
  starting = true;
  Process process = Process::spawn(command);
  starting = false;
  expect(meetings > 0, "the other thread met the start");
  expect(run(process.wait()).value == SIGTERM, "the new process got its signal");
  expect(drover::Clock::now() - start < 5s, "and not the one after it");
  while (clearing) ::poll(nullptr, 0, 1);
  expect(run(Process::spawn(child({})).wait()).success(), "another process can be started");
  return 0;
}
