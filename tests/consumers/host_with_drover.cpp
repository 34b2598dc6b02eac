#include <cstdlib>

#include <drover/drover.hpp>

void host_uses_drover();

namespace {

asio::awaitable<bool> use_a_process() {
  drover::Process process = drover::Process::spawn({.program = "true"});
  const drover::ExitStatus status = co_await process.wait();
  co_return status.success();
}

}  // namespace

void host_uses_drover() {
  if (!drover::run(use_a_process())) std::abort();
}
