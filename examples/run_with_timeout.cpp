// timeout(1) with nothing but drover::Process: runs a command, and ends it if it takes too long.
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/signal_set.hpp>

#include <drover/os/process.hpp>

namespace {

constexpr std::string_view usage =
    R"(Usage: run_with_timeout [-k KILL_AFTER] SECONDS COMMAND [ARGUMENT...]

Runs COMMAND. If it is still running after SECONDS, it gets SIGTERM. If its process group is still there
KILL_AFTER seconds later (default: 5), the whole group gets SIGKILL. Both numbers may have fractions. With
SECONDS 0 there is no limit.

Exit status:
  that of COMMAND, if it exits within SECONDS
  124      COMMAND exited after SIGTERM
  125      run_with_timeout itself failed
  126      COMMAND cannot be executed
  127      COMMAND was not found
  128 + N  signal N ended COMMAND (137: SIGKILL)
)";

enum Status { timed_out = 124, own_failure = 125, not_executable = 126, not_found = 127, by_signal = 128 };

struct CommandLine {
  drover::ReapPlan plan{};
  drover::Command command{};
};

[[noreturn]] void refuse_command_line(const std::string& why) {
  std::cerr << "run_with_timeout: " << why << "\nTry 'run_with_timeout --help'.\n";
  std::exit(own_failure);
}

drover::Duration parse_seconds(std::string_view text) {
  double seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds, std::chars_format::fixed);
  if (error != std::errc() || end != text.data() + text.size() || !(seconds >= 0 && seconds <= 1e9))
    refuse_command_line("'" + std::string(text) + "' is not a number of seconds");
  return std::chrono::duration_cast<drover::Duration>(std::chrono::duration<double>(seconds));
}

CommandLine parse_command_line(int argc, char** argv) {
  CommandLine result;
  opterr = 0;
  // "+" stops at the first operand: the options after COMMAND are its own.
  for (int found; (found = getopt(argc, argv, "+:k:h-:")) != -1;) {
    switch (found) {
      case 'k': result.plan.term_grace = parse_seconds(optarg); break;
      case 'h': std::cout << usage; std::exit(0);
      case '-':
        if (std::string_view(optarg) == "help") {
          std::cout << usage;
          std::exit(0);
        }
        refuse_command_line("unknown option '--" + std::string(optarg) + "'");
      case ':': refuse_command_line(std::string("option '-") + static_cast<char>(optopt) + "' needs a value");
      default: refuse_command_line(std::string("unknown option '-") + static_cast<char>(optopt) + "'");
    }
  }
  if (argc - optind < 2) refuse_command_line(optind == argc ? "missing SECONDS" : "missing COMMAND");

  result.plan.patience = parse_seconds(argv[optind]);
  if (*result.plan.patience == drover::Duration::zero()) result.plan.patience = std::nullopt;
  result.command.program = argv[optind + 1];
  result.command.args.assign(argv + optind + 2, argv + argc);
  result.command.in = drover::Stdio::inherit();
  return result;
}

/// Makes the command's process group the foreground group of the terminal, if this program's group is that now. drover
/// gives each process a group of its own, and only the foreground group may read from the terminal and gets its Ctrl-C.
class Foreground {
 public:
  explicit Foreground(drover::Process& process) {
    if (::tcgetpgrp(STDIN_FILENO) != ::getpgrp()) return;  // no terminal, or this program is in the background
    give_to(process.pid());
    given_ = true;
    process.signal(SIGCONT);  // in case it was stopped because it read before
  }
  Foreground(const Foreground&) = delete;
  Foreground& operator=(const Foreground&) = delete;
  ~Foreground() {
    if (given_) give_to(::getpgrp());
  }

 private:
  static void give_to(pid_t group) {
    // From the background, tcsetpgrp(3) would stop this program by SIGTTOU.
    sigset_t output, before;
    sigemptyset(&output);
    sigaddset(&output, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &output, &before);
    ::tcsetpgrp(STDIN_FILENO, group);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  bool given_ = false;
};

int exit_status_of(const drover::ReapReport& report) {
  if (report.exit.kind == drover::ExitStatus::Kind::unknown) return own_failure;
  if (report.terminated && !report.killed) return timed_out;
  if (report.exit.kind == drover::ExitStatus::Kind::signaled) return by_signal + report.exit.value;
  return report.exit.value;
}

}  // namespace

int main(int argc, char** argv) {
  const CommandLine command_line = parse_command_line(argc, argv);

  asio::io_context context;
  drover::Process process;
  try {
    // This comes before the spawn: a signal that arrives in between must not end this program alone.
    asio::signal_set signals(context, SIGINT, SIGTERM, SIGHUP);
    signals.add(SIGQUIT);
    process = drover::Process::spawn(command_line.command);
    const Foreground foreground(process);

    const auto pass_on = [&process, &signals](const auto& self) -> void {
      signals.async_wait([&process, &self](const std::error_code& error, int signal) {
        // After the reap no wait may begin: the handler of the reap cancels only the waits that it finds.
        if (error || !process.running()) return;
        process.signal(signal);
        self(self);
      });
    };
    pass_on(pass_on);

    int status = own_failure;
    std::exception_ptr failure;
    asio::co_spawn(context, process.reap(command_line.plan), [&](std::exception_ptr error, drover::ReapReport report) {
      failure = error;
      if (!error) status = exit_status_of(report);
      signals.cancel();
    });
    context.run();
    if (failure) std::rethrow_exception(failure);
    return status;
  } catch (const std::system_error& error) {
    std::cerr << "run_with_timeout: " << error.what() << '\n';
    if (process.pid() > 0) return own_failure;
    return error.code() == std::errc::no_such_file_or_directory ? not_found : not_executable;
  }
}
