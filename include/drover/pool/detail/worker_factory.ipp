#pragma once

#include <exception>
#include <string>
#include <utility>

#include <drover/error.hpp>
#include <drover/os/detail/environment.hpp>
#include <drover/os/detail/spawn_thread.hpp>
#include <drover/pool/detail/slots.hpp>
#include <drover/pool/detail/worker_factory.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Throws Error if the context is destroyed.
inline asio::any_io_executor WorkerFactory::prepare() {
  constexpr std::size_t events_per_replacement = 5;  // gave_up, restarting, recovered, replacing, fork_failed
  slots_.events().reserve(events_per_replacement * (slots_.size() + 1));
  const auto executor = dispatcher_->executor();
  if (!executor) throw Error(Errc::not_running, "the io_context of this pool is destroyed");
  return *executor;
}

inline std::shared_ptr<WorkerSession> WorkerFactory::worker(const Slot::Options& options, Slot* slot) {
  const auto executor = prepare();
  WorkerOptions own = *options;
  if (slot != nullptr)
    for (const auto& [name, value] : slot->environment) own.command.env[name] = value;
  else
    own.command.env[slot_variable] = std::nullopt;  // it may be that of this program
  auto session = WorkerSession::create(executor, std::move(own), dispatcher_, slots_.events().sink(),
                                       {.takes_calls = slot != nullptr, .owns_dispatcher = false});
  session->supervise(slots_.weak_from_this(), slot != nullptr ? slot->at : no_slot,
                     slot != nullptr ? std::weak_ptr<void>(slots_.slot(slot->at)) : std::weak_ptr<void>());
  session->recycle_after(slots_.changes().answers_of_a_worker(), slots_.changes().rss_limit());
  session->start_from(slots_.forks().source(options));
  return session;
}

inline std::shared_ptr<WorkerSession> WorkerFactory::fork_server(WorkerOptions options) {
  options.command.env[slot_variable] = std::nullopt;
  auto session = WorkerSession::create(prepare(), std::move(options), dispatcher_, slots_.events().sink(),
                                       {.takes_calls = false, .owns_dispatcher = false, .is_fork_server = true});
  session->supervise(std::shared_ptr<WorkerSupervision>(slots_.shared_from_this(), &slots_.forks()), no_slot, {});
  return session;
}

inline Slot::Environment WorkerFactory::environment_of(std::size_t at) const {
  Slot::Environment environment = slots_.options().slot_env ? slots_.options().slot_env(at) : Slot::Environment();
  for (const auto& [name, value] : environment) {
    require_variable_name(name);
    require_no_nul(value, "the value of a variable of PoolOptions::slot_env");
  }
  return environment;
}

template <class F>
void WorkerFactory::spawn(const std::shared_ptr<WorkerSession>& session, F failed) noexcept {
  const auto spawn = [weak = slots_.weak_from_this(), session, failed, timeout = slots_.options().start_timeout] {
    try {
      session->spawn(timeout);
    } catch (...) {
      if (const auto alive = weak.lock()) failed(std::current_exception());
    }
    session->release_context();
  };
  try {
    session->keep_context();
    SpawnThread::run(spawn);
  } catch (const std::exception&) {  // no memory for it, or no thread
    spawn();
  }
}

}}}  // namespace drover::v1::detail
