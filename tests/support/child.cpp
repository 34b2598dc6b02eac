// A child to test with. Its arguments are steps, done one after the other; it ends with code 0 after the last one.
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fcntl.h>
#include <signal.h>
#include <string>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

// Sanitizers delay the usual ways out.
[[noreturn]] void leave(int code) {
  for (;;) ::syscall(SYS_exit_group, code);
}

void say(const std::string& text) {
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t written = ::write(1, text.data() + done, text.size() - done);
    if (written < 0) leave(99);
    done += static_cast<std::size_t>(written);
  }
}

void pass(long milliseconds) {
  timespec left{milliseconds / 1000, milliseconds % 1000 * 1000000};
  while (::nanosleep(&left, &left) != 0) continue;
}

void on_signal(int signo, void (*handler)(int)) {
  struct sigaction action{};
  action.sa_handler = handler;
  ::sigaction(signo, &action, nullptr);
}

// What it was given: one line a topic, nothing is listed that is as it should be.
void report() {
  std::string text = "fds";
  for (int fd = 0; fd < 4096; ++fd)
    if (::fcntl(fd, F_GETFD) >= 0) text += " " + std::to_string(fd);
  text += "\nblocked";
  sigset_t mask;
  ::sigprocmask(SIG_SETMASK, nullptr, &mask);
  for (int signo = 1; signo < NSIG; ++signo)
    if (::sigismember(&mask, signo) == 1) text += " " + std::to_string(signo);
  text += "\nnot-default";
  for (int signo = 1; signo < NSIG; ++signo) {
    struct sigaction action{};
    if (::sigaction(signo, nullptr, &action) == 0 && action.sa_handler != SIG_DFL) text += " " + std::to_string(signo);
  }
  text += std::string("\nleader ") + (::getpgrp() == ::getpid() ? "yes" : "no") + "\n";
  say(text);
}

int exit_code = 0;
long delay = 0;

}  // namespace

int main(int argc, char** argv) {
  int at = 1;
  const auto next = [&]() -> std::string {
    if (at >= argc) leave(98);
    return argv[at++];
  };
  const auto number = [&] { return std::atoi(next().c_str()); };
  while (at < argc) {
    const std::string step = next();
    if (step == "say") {
      say(next());
    } else if (step == "say-pid") {
      say(std::to_string(::getpid()) + "\n");
    } else if (step == "say-env") {
      const char* value = std::getenv(next().c_str());
      say(value != nullptr ? std::string("=") + value + "\n" : "unset\n");
    } else if (step == "say-cwd") {
      char path[4096];
      say(::getcwd(path, sizeof path) != nullptr ? path : "none");
    } else if (step == "say-stdin") {
      char path[4096];
      const ssize_t length = ::readlink("/proc/self/fd/0", path, sizeof path);
      say(length > 0 ? std::string(path, static_cast<std::size_t>(length)) + "\n" : "none\n");
    } else if (step == "report") {
      report();
    } else if (step == "say-name") {
      say(std::string(argv[0]) + "\n");
    } else if (step == "say-to") {
      const int fd = number();
      if (::write(fd, next().c_str(), 1) != 1) leave(97);
    } else if (step == "err") {
      const std::string text = next();
      if (::write(2, text.data(), text.size()) < 0) leave(97);
    } else if (step == "exit") {
      leave(number());
    } else if (step == "raise") {
      ::raise(number());
    } else if (step == "ignore") {
      on_signal(number(), SIG_IGN);
    } else if (step == "exit-on") {  // signal, delay in ms, code
      const int signo = number();
      delay = number();
      exit_code = number();
      on_signal(signo, [](int) { pass(delay), leave(exit_code); });
    } else if (step == "sleep") {
      pass(number());
    } else if (step == "pause") {
      for (;;) ::pause();
    } else if (step == "await-input") {  // until somebody writes or closes
      char byte;
      while (::read(0, &byte, 1) < 0) continue;
    } else if (step == "new-session") {
      ::setsid();
    } else if (step == "allow-core") {
      const rlimit all{1 << 20, 1 << 20};
      ::setrlimit(RLIMIT_CORE, &all);
    } else if (step == "flood") {  // so many lines "line 0", "line 1", ...
      const int lines = number();
      std::string text;
      for (int i = 0; i < lines; ++i) {
        text += "line " + std::to_string(i) + "\n";
        if (text.size() > 60000 || i + 1 == lines) say(text), text.clear();
      }
    } else if (step == "long-line") {  // so many x, without an end
      say(std::string(static_cast<std::size_t>(number()), 'x'));
    } else if (step == "fork") {  // up to "end" is done by a child
      const bool is_child = ::fork() == 0;
      for (int depth = is_child ? 0 : 1; depth > 0;) {
        const std::string skipped = next();
        depth += skipped == "fork" ? 1 : skipped == "end" ? -1 : 0;
      }
    } else if (step == "end") {
      leave(0);
    } else {
      std::fprintf(stderr, "unknown step '%s'\n", step.c_str());
      leave(96);
    }
  }
  leave(0);
}
