// A program that works in a terminal, as the job of a little shell that has the terminal's session, and has children
// that inherit the terminal. The test child's path comes first, then what is to be done.
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <signal.h>
#include <string>
#include <string_view>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <system_error>
#include <termios.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <drover/os/process.hpp>

#include "support/host_program.hpp"

namespace {

using namespace host;

int keyboard = -1;  // what is written here is typed
int told[2];        // by the job, for the shell

void type(std::string_view keys) {
  expect(::write(keyboard, keys.data(), keys.size()) == static_cast<ssize_t>(keys.size()), "keys are typed");
}

void set_foreground(pid_t group) {
  ::signal(SIGTTOU, SIG_IGN);
  expect(::tcsetpgrp(0, group) == 0, "a group gets the terminal");
  ::signal(SIGTTOU, SIG_DFL);
}

void expect_terminal_is_ours() { expect(::tcgetpgrp(0) == ::getpgrp(), "this program has the terminal"); }

Command reading(std::vector<std::string> steps = {"await-input", "exit", "5"}) {
  Command command = child(std::move(steps));
  command.in = Stdio::inherit();
  return command;
}

void expect_refused() {
  try {
    static_cast<void>(Process::spawn(reading()));
    expect(false, "nothing is started");
  } catch (const std::system_error& error) {
    expect(error.code() == std::errc::io_error, error.what());
    const std::string_view text = error.what();
    for (const char* word : {"terminal", "Stdio::null()", child_program})
      expect(text.find(word) != std::string_view::npos, error.what());
  }
}

void expect_reads(Process& process) {
  const auto report = run(process.reap(10s));
  expect(!report.terminated && report.exit.value == 5, "the child has read its terminal");
  expect_terminal_is_ours();
}

int job(const std::string& mode) {
  if (mode == "reads") {
    for (int round = 0; round < 20; ++round) {
      if (round % 2 == 0) type("x\n");
      Process process = Process::spawn(reading());
      if (round % 2 != 0) type("x\n");
      expect_reads(process);
    }
  } else if (mode == "second") {
    Process first = Process::spawn(reading());
    expect_refused();
    type("x\n");
    expect_reads(first);
    type("x\n");
    Process second = Process::spawn(reading());
    expect_reads(second);
  } else if (mode == "background") {
    const pid_t other = ::fork();
    if (other == 0) {
      for (;;) ::pause();
    }
    ::setpgid(other, other);
    set_foreground(other);
    expect_refused();
    Command command = reading();
    command.in = Stdio::null();
    expect(run(Process::spawn(command).wait()).value == 5, "one without the terminal is started");
    set_foreground(::getpgrp());
    ::kill(other, SIGKILL);
    ::waitpid(other, nullptr, 0);
    type("x\n");
    Process process = Process::spawn(reading());
    expect_reads(process);
  } else if (mode == "abandons") {
    Process process = Process::spawn(reading({"ignore", "15", "pause"}));
    expect(::tcgetpgrp(0) == process.pid(), "the child has the terminal");
    const pid_t pid = process.pid();
    process = Process();
    expect_terminal_is_ours();
    ::kill(pid, SIGKILL);
  } else if (mode == "suspends") {
    Process process = Process::spawn(reading());
    expect(::write(told[1], "x", 1) == 1, "the shell hears that the child has the terminal");
    expect_reads(process);
  } else if (mode == "stopped") {
    Process process = Process::spawn(reading());
    process.signal(SIGSTOP);  // by somebody else: nobody but the child is stopped, and the terminal is usable
    while (::tcgetpgrp(0) != ::getpgrp()) ::usleep(1000);
    process.signal(SIGCONT);
    type("x\n");
    expect_reads(process);
  } else if (mode == "stopped-late") {
    Command command = reading({"ignore", "15", "say", "x", "await-input", "exit", "5"});
    command.out = Stdio::file("/proc/self/fd/" + std::to_string(told[1]));
    Process process = Process::spawn(command);
    char byte;
    expect(::read(told[0], &byte, 1) == 1, "the child ignores SIGTERM");
    static_cast<void>(process.reap({.patience = 0s, .term_grace = 1min}));
    process.signal(SIGSTOP);
    const auto start = drover::Clock::now();
    while (::tcgetpgrp(0) != ::getpgrp()) ::usleep(1000);
    expect(drover::Clock::now() - start < 5s, "the terminal returns soon");
    process.signal(SIGCONT);
    type("x\n");
    expect(run(process.wait()).value == 5, "the child has read its terminal");
    expect_terminal_is_ours();
  } else {
    return 2;
  }
  return 0;
}

// The user types the suspend character, and later wants the job in the foreground again.
void suspend_and_go_on(pid_t job) {
  char byte;
  expect(::read(told[0], &byte, 1) == 1, "the job's child has the terminal");
  type("\x1a");
  int status = 0;
  expect(::waitpid(job, &status, WUNTRACED) == job && WIFSTOPPED(status), "the job stops");
  expect(::tcgetpgrp(0) == job, "the terminal is the job's");
  set_foreground(::getpgrp());
  set_foreground(job);
  ::kill(-job, SIGCONT);
  type("x\n");
}

int shell(const std::string& mode) {
  ::setsid();
  keyboard = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  expect(keyboard >= 0 && ::grantpt(keyboard) == 0 && ::unlockpt(keyboard) == 0, "a terminal is made");
  const int terminal = ::open(::ptsname(keyboard), O_RDWR | O_NOCTTY);
  expect(::ioctl(terminal, TIOCSCTTY, 0) == 0 && ::dup2(terminal, 0) == 0, "it is this session's");
  ::close(terminal);
  expect(::pipe2(told, O_CLOEXEC) == 0, "a pipe");
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::setpgid(0, 0);
    set_foreground(::getpgrp());
    std::exit(job(mode));
  }
  if (mode == "suspends") suspend_and_go_on(pid);
  int status = 0;
  expect(::waitpid(pid, &status, 0) == pid && WIFEXITED(status), "the job exits");
  return WEXITSTATUS(status);
}

}  // namespace

int main(int, char** argv) {
  child_program = argv[1];
  const pid_t pid = ::fork();  // for a session only one that leads no group can ask
  if (pid == 0) return shell(argv[2]);
  int status = 0;
  expect(::waitpid(pid, &status, 0) == pid && WIFEXITED(status), "the shell exits");
  return WEXITSTATUS(status);
}
