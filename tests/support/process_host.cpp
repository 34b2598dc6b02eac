// A program that has processes of its own and ends, or is in a state, that a test can't be in itself.
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <memory>
#include <signal.h>
#include <string>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <vector>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>

#include <drover/os/detail/child_process.hpp>
#include <drover/os/exec.hpp>
#include <drover/os/process.hpp>

#include "support/host_program.hpp"
#include "support/seccomp.hpp"

namespace {

using namespace host;

// Says which one it has started, too.
Process told(std::vector<std::string> steps) {
  Process process = host::started(std::move(steps));
  say(std::to_string(process.pid()) + "\n");
  return process;
}

// Ends of the program ------------------------------------------------------------------------------------------------

Process global;                      // destroyed before the exit hook runs
Process* volatile leaked = nullptr;  // never destroyed: the hook finds it

void owned_by(const std::string& owner, Process process) {
  if (owner == "global")
    global = std::move(process);
  else
    leaked = new Process(std::move(process));
}

int ends(const std::string& owner, const std::string& kind) {
  if (kind == "lives") owned_by(owner, told({"say", "x", "pause"}));
  if (kind == "ignores") owned_by(owner, told({"ignore", "15", "say", "x", "pause"}));
  if (kind == "stopped") {
    Process process = told({"say", "x", "raise", "19", "pause"});
    siginfo_t info{};
    ::waitid(P_PID, static_cast<id_t>(process.pid()), &info, WSTOPPED | WNOWAIT);
    owned_by(owner, std::move(process));
  }
  return 0;
}

// Older than the exit hook, and so destroyed after it: by then all has ended, and nothing can be started any more.
struct Late {
  Process process;
  bool used = false;
  ~Late() {
    if (!used) return;
    expect(!process.running(), "the exit hook has ended it");
    try {
      static_cast<void>(Process::spawn(child({})));
      expect(false, "spawning fails after the end");
    } catch (const std::system_error& error) {
      expect(error.code() == std::errc::operation_canceled, "with ECANCELED");
    }
    process = Process();
    say("late\n");
  }
};
[[gnu::init_priority(200)]] Late late;

/// How many descriptors are in this program's epoll sets.
int watched_descriptors() {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fdinfo")) {
    std::ifstream file(entry.path());
    for (std::string line; std::getline(file, line);) count += line.starts_with("tfd:") ? 1 : 0;
  }
  return count;
}

// A copy of this program may do what it likes.
int forked_copy(const std::string& way) {
  Process mine = told({"say", "x", "pause"});
  global = told({"say", "x", "pause"});
  auto context = std::make_unique<asio::io_context>();
  bool ended = false, cancelled = false;
  asio::cancellation_signal cancel;
  asio::co_spawn(*context, mine.wait(),
                 asio::bind_cancellation_slot(
                     cancel.slot(), [&](std::exception_ptr e, drover::ExitStatus) { (e ? cancelled : ended) = true; }));
  context->poll();
  const int watched = watched_descriptors();
  const pid_t copy = ::fork();
  if (copy == 0) {
    if (way == "cancels") {
      cancel.emit(asio::cancellation_type::terminal);
      context->poll();
      ::_exit(cancelled ? 0 : 1);
    }
    if (way == "destroys") {
      mine = Process();
      global = Process();
      context.reset();
      ::_exit(0);
    }
    if (way == "spawns") {
      Process own = told({"ignore", "15", "say", "x", "pause"});
      mine.signal(SIGKILL);
      static_cast<void>(mine.reap(0s));
      bool refused = false;
      try {
        run(mine.wait());
      } catch (const std::system_error& error) {
        refused = error.code() == std::errc::no_child_process;
      }
      expect(refused, "a copy can't wait for what is not its child");
      expect(run(own.reap({.patience = 0s, .term_grace = 50ms})).killed, "a copy can have its own");
      global = Process::spawn(child({"pause"}));
    }
    std::exit(0);  // runs the destructors of all that is global
  }
  int status = 0;
  ::waitpid(copy, &status, 0);
  expect(status == 0, "the copy ended well");
  expect(watched_descriptors() == watched, "the copy has not touched what the original watches");
  for (Process* process : {&mine, &global}) {
    expect(process->running() && ::kill(process->pid(), 0) == 0, "the original's child lives on");
    expect(run(process->reap(0s)).terminated, "and is still seen to end");
  }
  context->run();
  expect(ended, "by who has waited all the time, too");
  return 0;
}

// Hosts in a bad way -------------------------------------------------------------------------------------------------

// Which of 0, 1, 2 are closed is told by the bits of a number.
int closed_stdio(int closed, const std::string& report) {
  for (int fd = 0; fd < 3; ++fd)
    if ((closed >> fd & 1) != 0) ::close(fd);
  Command command = child({"report"});
  command.in = Stdio::inherit();
  command.out = Stdio::file(report);
  std::vector<int> sources{::open("/dev/null", O_RDWR), ::open("/dev/null", O_RDWR)};
  drover::detail::SpawnOptions extras;
  extras.descriptors = sources;
  const auto process = drover::detail::ChildProcess::spawn(command, extras);
  siginfo_t info{};
  while (process->running()) ::waitid(P_PID, static_cast<id_t>(process->pid()), &info, WEXITED | WNOWAIT);
  return process->exit_status()->success() ? 0 : 1;
}

// Not even the background thread has been started when there are no descriptors left.
int no_descriptors() {
  asio::io_context context;
  const asio::steady_timer timer(context);  // Asio's own descriptors
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = 32;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  const auto fill = [] {
    std::vector<int> fds;
    for (int fd; (fd = ::dup(2)) >= 0;) fds.push_back(fd);
    return fds;
  };
  int failures = 0;
  for (std::size_t left = 0; left < 20; ++left) {
    auto filler = fill();
    for (std::size_t i = 0; i < left; ++i) ::close(filler.back()), filler.pop_back();
    bool ok = false;
    try {
      Command command = child({"exit", "5"});
      command.out = command.err = Stdio::lines(context.get_executor(), [](std::string_view) {});
      auto process = Process::spawn(command);
      for (const int fd : filler) ::close(fd);
      filler.clear();
      expect(run(process.wait()).value == 5, "the child's status");
      ok = true;
    } catch (const std::system_error& error) {
      ++failures;
      expect(error.code() == std::errc::too_many_files_open, "the error is EMFILE");
      const std::string text = error.what();
      expect(text.find(child_program) != std::string::npos || text.starts_with("drover's background thread"),
             error.what());
      auto rest = fill();
      // What is made once for the whole program may have come into being.
      expect(rest.size() <= left && rest.size() + 3 >= left, "nothing leaks");
      for (const int fd : rest) ::close(fd);
      int status = 0;
      expect(::waitpid(-1, &status, WNOHANG) == -1, "no child is left");
    }
    for (const int fd : filler) ::close(fd);
    if (ok) {
      expect(failures >= 4, "each descriptor was once the one too many");
      return 0;
    }
  }
  return 1;
}

// SIGKILL is refused, as by a set-user-ID program.
int refused_kill() {
  Process process = told({"ignore", "15", "say", "x", "pause"});
  support::refuse({{SYS_kill, EPERM, SIGKILL}, {424 /* pidfd_send_signal */, EPERM, SIGKILL}});
  for (int i = 0; i < 2; ++i) {
    try {
      run(process.reap({.patience = 0s, .term_grace = 50ms}));
      expect(false, "the reap fails");
    } catch (const std::system_error& error) {
      expect(error.code() == std::errc::operation_not_permitted, "with EPERM");
    }
  }
  expect(process.running(), "it still runs");
  process.signal(SIGUSR1);
  expect(run(process.wait()).value == SIGUSR1, "and is still waited for");
  expect(run(process.reap(0s)).killed, "later reaps get the report");
  return 0;
}

// A program that replaces itself. The new one finds what is left.
int execs(bool prepared) {
  std::vector<std::string> words{"process_host", child_program, "anew", prepared ? "none" : "all"};
  const auto start = [&](std::vector<std::string> steps) {
    leaked = new Process(told(std::move(steps)));
    words.push_back(std::to_string(leaked->pid()));
  };
  const auto replace = [&](const char* program) {
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    ::execv(program, arguments.data());
  };
  start({"say", "x", "pause"});
  start({"say", "x", "raise", "19", "pause"});
  if (prepared) {
    expect(drover::prepare_for_exec(), "none is left");
    expect(!leaked->running(), "the exit is seen");
    replace("/no/such/program");
    start({"say", "x", "pause"});  // nothing has changed
    expect(leaked->running() && run(leaked->reap(0s)).terminated, "a process can be started after a failed exec");
    start({"say", "x", "pause"});
    expect(drover::prepare_for_exec(), "none is left again");
  }
  replace("/proc/self/exe");
  return 3;
}

int anew(const std::string& left, const std::vector<std::string>& pids) {
  for (const std::string& word : pids) {
    const pid_t pid = std::stoi(word);
    const bool there = ::kill(pid, 0) == 0;
    expect(there == (left == "all"), "what is left");
    if (!there) continue;
    siginfo_t info{};
    expect(::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0,
           "a process runs on");
    ::kill(pid, SIGKILL);
    expect(::waitpid(pid, nullptr, 0) == pid, "it is this program's child");
  }
  int status = 0;
  expect(::waitpid(-1, &status, WNOHANG) == -1, "no other is left");
  say("anew\n");
  return 0;
}

// Where something that drover needs is refused, the error says what, and for what.
int refused(const std::string& what) {
  Command command = child({});
  std::string words;
  int expected = 0;
  if (what == "thread") {
    support::refuse({{SYS_clone3, EAGAIN}, {SYS_clone, EAGAIN}});
    words = "drover's background thread, which watches its processes, cannot be started";
    expected = EAGAIN;
  } else if (what == "proc") {
    static_cast<void>(run(Process::spawn(command).wait()));  // so that only the program is at fault
    support::refuse({{SYS_execve, ENOENT}, {SYS_faccessat, ENOENT}, {SYS_faccessat2, ENOENT}});
#ifdef SYS_access
    support::refuse({{SYS_access, ENOENT}});
#endif
    command = Command::self();
    words = "Command::self() needs /proc, and /proc/self/exe cannot be executed";
    expected = ENOENT;
  } else if (what == "epoll") {
    support::refuse({{SYS_epoll_create1, EMFILE}});
    words = "drover's background thread has no epoll instance to watch processes with";
    expected = EMFILE;
  }
  for (int i = 0; i < 2; ++i) {
    try {
      static_cast<void>(Process::spawn(command));
      expect(false, "nothing is started");
    } catch (const std::system_error& error) {
      expect(error.code() == std::error_code(expected, std::system_category()), error.what());
      expect(std::string(error.what()).find(words) != std::string::npos, error.what());
    }
  }
  return 0;
}

// What its processes leave behind becomes this program's.
int subreaper() {
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  for (int i = 0; i < 20; ++i) {
    Process process = told({"exit-on", "10", "0", "2", "fork", "fork", "fork", "say", "x", "pause", "end", "pause",
                            "end", "pause", "end", "pause"});
    if (i % 2 == 0) {
      process.signal(SIGUSR1);
      expect(run(process.wait()).value == 2, "its status");
    } else {
      expect(run(process.reap(0s)).terminated, "its end");
    }
    int status = 0;
    expect(::waitpid(-1, &status, WNOHANG) == -1, "its whole group has been collected");
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  child_program = argv[1];
  const std::string& mode = words.at(1);
  if (mode == "ends") return ends(words.at(2), words.at(3));
  if (mode == "exits") {
    owned_by("leaked", told({"say", "x", "pause"}));
    std::exit(7);
  }
  if (mode == "late") {
    late.used = true;
    late.process = told({"say", "x", "pause"});
    return 0;
  }
  if (mode == "forked-copy") return forked_copy(words.at(2));
  if (mode == "closed-stdio") return closed_stdio(std::stoi(words.at(2)), words.at(3));
  if (mode == "no-descriptors") return no_descriptors();
  if (mode == "refused-kill") return refused_kill();
  if (mode == "refused") return refused(words.at(2));
  if (mode == "subreaper") return subreaper();
  if (mode == "execs") return execs(words.at(2) == "prepared");
  if (mode == "anew") return anew(words.at(2), {words.begin() + 3, words.end()});
  return 2;
}
