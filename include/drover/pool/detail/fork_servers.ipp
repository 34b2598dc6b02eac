#pragma once

#include <algorithm>
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
    if (slots_.options().launch != Launch::fork || slots_.stopping()) return true;
    Server& server = server_for(options);
    if (server.state.state() == ForkServerState::State::ready && server.session->fork_server()->broken())
      ended(server, cause_of(*server.session));
    const auto decision = server.state.worker_due(Clock::now());
    if (decision.launch != ForkServerState::Launch::wait) return true;
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
  server.session = slots_.make_fork_server(std::move(options));
  server.session->begin_start();  // under the mutex: a stop that comes now finds it started
  return server.session;
}

inline void ForkServers::spawn(const std::shared_ptr<WorkerSession>& session) {
  try {
    session->spawn(slots_.options().start_timeout);
  } catch (...) {
    const auto held = slots_.lock();
    if (Server* const server = server_with(*session)) ended(*server, std::current_exception());
  }
}

// ---- reports --------------------------------------------------------------------------------------------------------

inline void ForkServers::worker_ready(WorkerSession& session) {
  Server* const server = server_with(session);
  if (server == nullptr || slots_.stopping()) return;
  const WorkerRecord& record = session.record();
  if (record.metadata->pid == record.child->pid()) {
    server->state.server_ready(Clock::now());
    return tell_waiting(*server);
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
  const auto exit = session.record().exit_status();
  if (!exit) return std::make_exception_ptr(Error(Errc::connection_lost, "it does not answer as it should"));
  return std::make_exception_ptr(Error(Errc::worker_exited, "it " + exit->to_string(), exit));
}

inline void ForkServers::ended(Server& server, const std::exception_ptr& cause) {
  if (server.state.server_ended(Clock::now())) report(server, cause);
}

/// Workers are executed for the time being, or another server is started.
inline void ForkServers::report(Server& server, const std::exception_ptr& cause) {
  tell_waiting(server);
  std::string text;
  try {
    std::rethrow_exception(cause);
  } catch (const std::exception& error) {
    text = what_of(error);
  } catch (...) {
  }
  slots_.events().emit(Event::Kind::fork_failed, 0, [&](Event& event) { event.cause = std::move(text); });
}

/// Those who wait go on after other handlers have run. If there is no memory for that, the next start tells them.
inline void ForkServers::tell_waiting(Server& server) {
  if (server.waiting.empty()) return;
  (void)slots_.try_post([this, options = server.options] {
    std::vector<std::function<void()>> waiting;
    {
      const auto held = slots_.lock();
      for (Server& found : servers_)
        if (found.options == options) waiting.swap(found.waiting);
    }
    for (const auto& again : waiting) again();
  });
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
