#pragma once

#include <algorithm>
#include <chrono>
#include <new>
#include <optional>
#include <stdexcept>
#include <utility>

#include <drover/detail/what_of.hpp>
#include <drover/error.hpp>
#include <drover/pool/detail/fork_servers.hpp>
#include <drover/pool/detail/slots.hpp>

namespace drover { inline namespace v1 { namespace detail {

// ---- for the starts of workers --------------------------------------------------------------------------------------

inline bool ForkServers::may_start(const Slot::Options& options, std::function<void()> again) {
  std::shared_ptr<WorkerSession> session;
  {
    const auto held = slots_.lock();
    if (!options || slots_.options().launch != Launch::fork || slots_.stopping()) return true;
    Server& server = server_for(options);
    server.waiting.reserve(server.waiting.size() + 1);
    if (server.state.state() == ForkServerState::State::ready) look_at(server);
    const auto decision = server.state.worker_due(Clock::now());
    if (decision.launch != ForkServerState::Launch::wait) {
      continue_waiting(server);  // if there was no memory for that before
      return true;
    }
    server.waiting.push_back(std::move(again));
    if (!decision.start_server) return false;
    try {
      session = put(server);
    } catch (...) {
      server.waiting.pop_back();
      ended(server, std::current_exception());
      return true;
    }
  }
  spawn(session);
  return false;
}

inline std::shared_ptr<ProcessSource> ForkServers::source(const Slot::Options& options) const {
  for (const Server& server : servers_)
    if (server.options == options && server.state.state() == ForkServerState::State::ready)
      return server.session->fork_server();
  return nullptr;
}

inline ForkServers::Server& ForkServers::server_for(const Slot::Options& options) {
  for (Server& server : servers_)
    if (server.options == options) return server;
  return servers_.emplace_back(options, ForkServerState(slots_.options().restart), nullptr);
}

inline ForkServers::Server* ForkServers::server_with(const WorkerSession& session) noexcept {
  for (Server& server : servers_)
    if (server.session.get() == &session) return &server;
  return nullptr;
}

/// A session for the server's process, which is to be spawned.
inline std::shared_ptr<WorkerSession> ForkServers::put(Server& server) {
  if (server.session) retire(server);
  WorkerOptions options = *server.options;
  options.name = options.name.value() + " (fork server)";
  options.command.in = Stdio::null();  // the terminal belongs to a worker
  // It has nothing to finish.
  constexpr Duration brief = std::chrono::milliseconds(500);
  options.stop_margin = std::min(options.stop_margin, brief);
  options.term_grace = std::min(options.term_grace, brief);
  options.kill_stalled = false;
  options.stall = std::nullopt;
  server.session = slots_.factory().fork_server(std::move(options));
  server.session->begin_start();  // under the mutex: a stop that comes now finds it started
  return server.session;
}

inline void ForkServers::spawn(const std::shared_ptr<WorkerSession>& session) {
  slots_.factory().spawn(session, [this, session](const std::exception_ptr& cause) {
    const auto held = slots_.lock();
    if (Server* const server = server_with(*session)) ended(*server, cause);
  });
}

// ---- reports --------------------------------------------------------------------------------------------------------

inline void ForkServers::worker_ready(WorkerSession& session) {
  Server* const server = server_with(session);
  if (server == nullptr || slots_.stopping()) return;
  const WorkerRecord& record = session.record();
  if (record.metadata->pid == record.child->pid()) {
    server->state.server_ready(Clock::now());
    return server->waiting.empty() ? end_unused() : continue_waiting(*server);
  }
  session.drop();
  if (server->state.server_unfit())
    report(*server, std::make_exception_ptr(Error(Errc::start_failed,
                                                  "its command runs the worker in a process of its own, whose copies "
                                                  "would not be children of this program")));
}

inline void ForkServers::worker_exited(WorkerSession& session) {
  auto cause = session.take_start_failure();
  const auto held = slots_.lock();
  Server* const server = server_with(session);
  if (server == nullptr || slots_.stopping()) return;
  if (!cause) cause = cause_of(session);
  if (!session.record().cannot_fork) return ended(*server, cause);
  if (server->state.server_unfit()) report(*server, cause);
}

inline std::exception_ptr ForkServers::cause_of(const WorkerSession& session) {
  const auto& server = session.fork_server();
  if (server && server->fault() != nullptr) return std::make_exception_ptr(std::runtime_error(server->fault()));
  const ExitStatus exit = session.record().exit_status().value_or(ExitStatus{});
  const bool killed = exit.kind == ExitStatus::Kind::signaled;
  return std::make_exception_ptr(std::runtime_error((killed ? "it was " : "it ") + exit.to_string()));
}

inline void ForkServers::ended(Server& server, const std::exception_ptr& cause) {
  const auto& process = server.session ? server.session->fork_server() : nullptr;
  const bool hung = process && process->hung();
  if (hung ? server.state.server_hung(Clock::now()) : server.state.server_ended(Clock::now())) report(server, cause);
}

/// Workers are executed for the time being, or another server is started.
inline void ForkServers::report(Server& server, const std::exception_ptr& cause) {
  continue_waiting(server);
  std::string text;
  try {
    std::rethrow_exception(cause);
  } catch (const std::exception& error) {
    text = what_of(error);
  } catch (...) {
  }
  slots_.events().emit(Event::Kind::fork_failed, 0, [&](Event& event) { event.cause = std::move(text); });
}

/// A server that is broken has ended. One that refuses to make copies says so once, until it has made another one.
inline void ForkServers::look_at(Server& server) {
  ForkServer& process = *server.session->fork_server();
  if (process.broken()) return ended(server, cause_of(*server.session));
  if (const std::string why = process.take_refusal(); !why.empty())
    report(server, std::make_exception_ptr(std::runtime_error(why)));
}

inline void ForkServers::report_refusals() {
  for (Server& server : servers_)
    if (server.state.state() == ForkServerState::State::ready) look_at(server);
}

/// The starts that wait go on after other handlers have run. If there is no memory for that, the next start continues
/// them.
inline void ForkServers::continue_waiting(Server& server) {
  if (server.waiting.empty()) return;
  // Those of now only: a start waits anew if the server has exited meanwhile.
  (void)slots_.try_post([this, options = server.options, count = server.waiting.size()] {
    try {
      for (std::size_t continued = 0; continued < count; ++continued)
        if (const auto again = next_waiting(options)) again();
      const auto held = slots_.lock();
      end_unused();
    } catch (const std::bad_alloc&) {  // the next start continues the others
    }
  });
}

inline std::function<void()> ForkServers::next_waiting(const Slot::Options& options) {
  const auto held = slots_.lock();
  for (Server& server : servers_) {
    if (server.options != options || server.waiting.empty()) continue;
    auto again = std::move(server.waiting.front());
    server.waiting.erase(server.waiting.begin());
    return again;
  }
  return {};
}

// ---- their end ------------------------------------------------------------------------------------------------------

inline void ForkServers::retire(Server& server) {
  if (!server.session) return;
  slots_.retired().reserve(1);
  if (!server.session->record().lifecycle.has_exited()) server.session->drop();
  slots_.retired().add(std::exchange(server.session, nullptr));
}

inline void ForkServers::end_unused() {
  if (servers_.size() < 2) return;
  for (auto server = servers_.begin(); server != servers_.end();) {
    if (!server->waiting.empty() || slots_.uses(server->options)) {
      ++server;
      continue;
    }
    retire(*server);
    server = servers_.erase(server);
  }
}

inline void ForkServers::stop() noexcept {
  for (Server& server : servers_) server.waiting.clear();
}

}}}  // namespace drover::v1::detail
