// A program that closes, or replaces, descriptors that are not its own while it has processes.
#include <cstdint>
#include <cstdlib>
#include <dirent.h>
#include <fcntl.h>
#include <memory>
#include <poll.h>
#include <set>
#include <signal.h>
#include <string>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <asio/executor_work_guard.hpp>
#include <asio/thread_pool.hpp>

#include <drover/detail/context/registry.hpp>
#include <drover/os/detail/child_process.hpp>

#include "support/host_program.hpp"

namespace {

using namespace host;

std::set<int> open_now() {
  std::set<int> open;
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir("/proc/self/fd"), &::closedir);
  while (const dirent* entry = ::readdir(folder.get()))
    if (entry->d_name[0] != '.') open.insert(std::atoi(entry->d_name));
  open.erase(::dirfd(folder.get()));
  return open;
}

void close_all() { expect(::syscall(SYS_close_range, 3u, ~0u, 0u) == 0, "close_range()"); }

bool soon(auto condition, drover::Duration bound) {
  const auto until = Clock::now() + bound;
  while (!condition()) {
    if (Clock::now() > until) return false;
    ::poll(nullptr, 0, 2);
  }
  return true;
}

// Says what the stdin of a child is that was to be /dev/null.
int null_device(const std::string& where, bool opens) {
  expect(run(Process::spawn(child({})).wait()).success(), "drover has been used");
  if (where == "copy") {
    if (const pid_t copy = ::fork(); copy != 0) {
      int status = 0;
      ::waitpid(copy, &status, 0);
      return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    }
  }
  close_all();
  for (int i = 0; opens && i < 20; ++i) expect(::open("/proc/self/exe", O_RDONLY) >= 3, "a file of the host's");
  Process process = Process::spawn(child({"say-stdin"}));
  siginfo_t info{};
  ::waitid(P_PID, static_cast<id_t>(process.pid()), &info, WEXITED | WNOWAIT);
  expect(info.si_status == 0, "the child ends well");
  return 0;
}

// A file that the host puts under the number of one of drover's descriptors. drover must not change it. The host makes
// the file beforehand: drover closes its descriptors when their times have come, and the file could get such a number.
class Replacement {
 public:
  Replacement(const std::string& kind, int number) : kind_(kind), number_(number) {
    if (kind == "epoll") {
      made_ = ::epoll_create1(EPOLL_CLOEXEC);
      other_ = ::eventfd(0, EFD_CLOEXEC);
      epoll_event event{};
      event.events = EPOLLIN;
      event.data.u64 = 77;
      expect(::epoll_ctl(made_, EPOLL_CTL_ADD, other_, &event) == 0, "the host's epoll set");
    } else if (kind == "timer") {
      made_ = ::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    } else if (kind == "event") {
      made_ = ::eventfd(3, EFD_CLOEXEC | EFD_NONBLOCK);
    } else if (kind == "pidfd") {
      bystander_ = ::fork();
      if (bystander_ == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // nobody waits for the output of a copy of a host that has failed
        while (::getppid() == host_) ::pause();
        ::_exit(0);
      }
      made_ = static_cast<int>(::syscall(SYS_pidfd_open, bystander_, 0));
      if (made_ < 0) made_ = ::eventfd(3, EFD_CLOEXEC);  // an old kernel
    } else if (kind == "pipe") {
      int ends[2];
      expect(::pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0, "the host's pipe");
      expect(::write(ends[1], "mine\n", 5) == 5, "the host's bytes");
      made_ = ends[0];
      other_ = ends[1];
    }
    expect(made_ >= 0 && made_ != number_, "a file of the host's");
  }

  void put() {
    expect(::dup2(made_, number_) == number_, "the host's file under the number");
    ::close(made_);
    expect(::fstat(number_, &before_) == 0, "the host's file is there");
  }

  void expect_untouched() {
    struct stat now{};
    expect(::fstat(number_, &now) == 0 && now.st_dev == before_.st_dev && now.st_ino == before_.st_ino,
           "the host's file has not been closed");
    if (kind_ == "epoll") {
      epoll_event event{};
      expect(::epoll_wait(number_, &event, 1, 0) == 0, "nothing has been put into the host's epoll set");
      const std::uint64_t one = 1;
      expect(::write(other_, &one, sizeof one) == sizeof one, "the host's event");
      expect(::epoll_wait(number_, &event, 1, 0) == 1 && event.data.u64 == 77, "the host's epoll set tells of it");
    }
    if (kind_ == "timer") {
      itimerspec when{};
      expect(::timerfd_gettime(number_, &when) == 0 && when.it_value.tv_sec == 0 && when.it_value.tv_nsec == 0,
             "the host's timer has not been set");
    }
    if (kind_ == "event") {
      std::uint64_t value = 0;
      expect(::read(number_, &value, sizeof value) == sizeof value && value == 3, "the host's event counter");
    }
    if (kind_ == "pipe") {
      char bytes[8];
      expect(::read(number_, bytes, sizeof bytes) == 5, "nobody has read from the host's pipe");
    }
    if (bystander_ > 0) {
      int status = 0;
      expect(::waitpid(bystander_, &status, WNOHANG) == 0, "the host's own child lives");
      ::kill(bystander_, SIGKILL);
      ::waitpid(bystander_, &status, 0);
    }
  }

 private:
  const std::string kind_;
  const int number_;
  const pid_t host_ = ::getpid();
  int made_ = -1;
  int other_ = -1;
  pid_t bystander_ = 0;
  struct stat before_{};
};

/// No descriptor is left to be had.
class Exhaustion {
 public:
  explicit Exhaustion(bool on) {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    if (!on) return;
    const int free = ::dup(2);
    rlimit all = before_;
    all.rlim_cur = static_cast<rlim_t>(free + 1);
    ::setrlimit(RLIMIT_NOFILE, &all);
    fillers_.push_back(free);
    expect(::dup(2) < 0, "there is no descriptor left");
  }
  void end() const {
    for (const int fd : fillers_) ::close(fd);
    ::setrlimit(RLIMIT_NOFILE, &before_);
  }

 private:
  rlimit before_{};
  std::vector<int> fillers_;
};

// A process that ignores SIGTERM, and has lines, while the descriptor of that index (or all: -1) is lost at `moment`.
// Code 9: there is no such descriptor.
int loses(int index, const std::string& kind, const std::string& moment) {
  expect(::signal(SIGPIPE, SIG_IGN) != SIG_ERR, "signal()");
  asio::io_context context;
  Command command = child({"ignore", "15", "say", "ready\n", "pause"});
  command.out = Stdio::lines(context.get_executor(), [&](std::string_view) { context.stop(); });
  const std::set<int> before = open_now();
  const auto process = drover::detail::ChildProcess::spawn(command);
  const auto work = asio::make_work_guard(context);
  context.run_for(10s);
  std::vector<int> drovers;
  for (const int fd : open_now())
    if (fd >= 3 && !before.contains(fd)) drovers.push_back(fd);
  if (index >= static_cast<int>(drovers.size())) {
    ::kill(process->pid(), SIGKILL);
    return 9;
  }
  const std::vector<int> lost = index < 0 ? drovers : std::vector{drovers[static_cast<std::size_t>(index)]};
  std::vector<Replacement> replacements;
  if (kind != "closed" && kind != "exhausted")
    for (const int fd : lost) replacements.emplace_back(kind, fd);
  const auto reap = [&] { process->reap({.patience = 100ms, .term_grace = 100ms}); };
  const auto start = Clock::now();
  if (moment != "before") reap();
  if (moment == "grace") expect(soon([&] { return process->report().terminated; }, 5s), "SIGTERM has been sent");
  for (Replacement& replacement : replacements) replacement.put();
  if (replacements.empty())
    for (const int fd : lost) ::close(fd);
  const Exhaustion exhaustion(kind == "exhausted");
  if (index < 0 && kind == "closed") close_all();
  if (moment == "before") reap();
  expect(soon([&] { return !process->running(); }, 2s), "it is reaped in time");
  expect(Clock::now() - start >= 200ms, "and not before its time");
  const drover::ReapReport report = process->report();
  expect(report.terminated && report.killed, "by the signals that were due");
  expect(report.exit == drover::ExitStatus{drover::ExitStatus::Kind::signaled, SIGKILL, false}, "with its status");
  expect(::kill(process->pid(), 0) != 0, "nothing is left of it");
  for (Replacement& replacement : replacements) replacement.expect_untouched();
  exhaustion.end();

  // All works as before.
  Command next = child({"say", "a\n", "exit", "5"});
  std::string said;
  next.out = Stdio::lines(context.get_executor(), [&](std::string_view line) { said += line; });
  Process after = Process::spawn(next);
  expect(run(after.wait()).value == 5, "a process that is started afterwards");
  Process other = host::started({"say", "x", "pause"});
  expect(run(other.reap(50ms)).terminated, "one that is reaped afterwards");
  return 0;
}

// Nobody reaps: it ends by itself while somebody waits, whose own context is in order.
int ends(bool replaced) {
  asio::thread_pool waits(1);
  (void)drover::detail::ContextRegistry::of(waits);  // opens what the context needs
  const std::set<int> before = open_now();
  Process process = host::started({"exit-on", "10", "300", "4", "say", "x", "pause"});
  bool done = false;
  asio::co_spawn(waits, process.wait(), [&](std::exception_ptr e, drover::ExitStatus status) {
    expect(!e && status.value == 4, "its status");
    done = true;
  });
  ::poll(nullptr, 0, 100);
  process.signal(SIGUSR1);
  std::vector<Replacement> replacements;
  for (const int fd : open_now()) {
    if (fd < 3 || before.contains(fd)) continue;
    if (replaced)
      replacements.emplace_back("event", fd);
    else
      ::close(fd);
  }
  for (Replacement& replacement : replacements) replacement.put();
  waits.join();
  expect(done, "its end is told");
  for (Replacement& replacement : replacements) replacement.expect_untouched();
  return 0;
}

}  // namespace

int main(int, char** argv) {
  child_program = argv[1];
  const std::string mode = argv[2];
  if (mode == "null-device") return null_device(argv[3], std::string(argv[4]) == "opens");
  if (mode == "loses") return loses(std::atoi(argv[3]), argv[4], argv[5]);
  if (mode == "ends") return ends(std::string(argv[3]) == "replaced");
  return 2;
}
