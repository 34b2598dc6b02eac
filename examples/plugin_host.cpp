// Calls a plug-in that cannot be trusted, in a worker process of its own. Whatever the plug-in does to that process,
// this program goes on, and prints a line for each input: the result, or what happened to the worker.
//
// plugin_host/plugin.cpp is such a plug-in. The worker is no sandbox: see SECURITY.md for what it does not prevent.
#include <CLI/CLI.hpp>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <sys/resource.h>
#include <system_error>
#include <vector>

#include <drover/drover.hpp>

#include "plugin_host/plugin.hpp"

namespace {

using namespace std::chrono_literals;

/// What the parent calls, and the worker runs.
constexpr drover::Routine<std::string(std::string)> call_plugin{"call_plugin"};

// In the worker -------------------------------------------------------------------------------------------------------

decltype(&drover_plugin) plugin = nullptr;

void set_limit(decltype(RLIMIT_AS) resource, rlim_t most) {
  const rlimit limit{most, most};
  if (::setrlimit(resource, &limit) != 0) throw std::system_error(errno, std::generic_category(), "setrlimit");
}

/// Loads the plug-in, which may already run code of its own then.
void load_plugin(const drover::WorkerInfo& worker) {
  set_limit(RLIMIT_AS, rlim_t{512} << 20);
  set_limit(RLIMIT_CORE, 0);
  void* const library = ::dlopen(worker.extra.at("plugin").c_str(), RTLD_NOW);
  void* const function = library == nullptr ? nullptr : ::dlsym(library, "drover_plugin");
  if (function == nullptr) throw std::runtime_error(::dlerror());
  plugin = reinterpret_cast<decltype(plugin)>(function);
}

std::string run_plugin(const std::string& input) {
  std::vector<char> output(4096);
  const int error = plugin(input.c_str(), output.data(), output.size());
  if (error != 0) throw std::runtime_error("error " + std::to_string(error));
  return std::string(output.data(), ::strnlen(output.data(), output.size()));
}

// In the parent -------------------------------------------------------------------------------------------------------

struct Job {
  std::string plugin;
  std::vector<std::string> inputs;
  int deadline = 1000;  // milliseconds
  std::size_t results = 0;
};

/// The text comes from the plug-in: it must not move the cursor, or look like several lines.
std::string printable(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = '?';
  return text;
}

std::string describe(const drover::Error& error) {
  if (error.code() == drover::Errc::protocol_error) return std::string("the worker wrote nonsense: ") + error.what();
  if (error.code() != drover::Errc::worker_exited || !error.exit_status()) return error.what();
  return "the worker ended: " + error.exit_status()->to_string();
}

asio::awaitable<void> call_all(drover::WorkerPool& pool, Job& job) {
  // run_for is the time of the plug-in. The deadline also covers the start of another worker.
  const drover::Duration run_for = std::chrono::milliseconds(job.deadline), deadline = run_for + 10s;
  const drover::CallOptions options{.deadline = deadline, .run_for = run_for, .kill_after = 0ms};
  for (const std::string& input : job.inputs) {
    const auto begin = drover::Clock::now();
    std::string line;
    bool out_of_memory = false;
    try {
      const std::string result = co_await pool.call(options, call_plugin, input);
      line = "result " + result;
      ++job.results;
    } catch (const drover::RemoteError& error) {
      out_of_memory = error.type() == "std::bad_alloc";
      line = out_of_memory ? "out of memory, the worker is replaced" : std::string("failed: ") + error.what();
    } catch (const drover::Error& error) {
      line = describe(error);
      if (error.code() == drover::Errc::deadline_exceeded && drover::Clock::now() < begin + deadline)
        line = "no result within " + std::to_string(job.deadline) + " ms, the worker is killed";
    }
    std::printf("%-12s %s\n", printable(input).c_str(), printable(line).c_str());
    std::fflush(stdout);
    if (out_of_memory) co_await pool.reload();
  }
}

drover::PoolOptions pool_options(const Job& job) {
  drover::PoolOptions options{.size = 1};
  options.worker.name = "plug-in";
  options.worker.extra = {{"plugin", std::filesystem::absolute(job.plugin)}};
  // What the plug-in writes must not look like lines of this program.
  options.worker.command.out = options.worker.command.err = drover::Stdio::null();
  options.worker.max_message_size = std::size_t{1} << 20;
  options.shutdown_grace = 0ms;
  options.worker.shutdown_grace = options.worker.stop_margin = options.worker.term_grace = 200ms;
  // Each input may cost a worker. The next one gets another worker at once.
  options.restart = {.max_restarts = job.inputs.size(), .within = 60s, .backoff = 0s};
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  drover::Routines routines;
  routines.add(call_plugin, run_plugin).on_start(load_plugin);
  if (drover::in_worker()) return drover::serve(routines);

  Job job;
  CLI::App app("Calls a plug-in that cannot be trusted with each input, in a worker process.");
  app.add_option("PLUGIN", job.plugin, "a shared object with the function drover_plugin()")
      ->required()
      ->check(CLI::ExistingFile);
  app.add_option("INPUT", job.inputs, "what it is called with")->required();
  app.add_option("--deadline", job.deadline, "milliseconds for each input")
      ->check(CLI::Range(1, 3'600'000))
      ->capture_default_str();
  app.footer("Exit status: 0 if there is a result for each input; 1 if not; 2 if the command line is wrong.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const int status = drover::run_main(drover::with_pool(
      pool_options(job), [&job](drover::WorkerPool& pool) -> asio::awaitable<void> { return call_all(pool, job); }));
  return status != 0 ? status : job.results == job.inputs.size() ? 0 : 1;
}
