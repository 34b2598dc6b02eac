#pragma once

#include <algorithm>
#include <utility>

#include <drover/pool/detail/slots.hpp>
#include <drover/pool/detail/spares.hpp>

namespace drover { inline namespace v1 { namespace detail {

inline Spares::Workers::const_iterator Spares::find(const Slot::Options& options) const noexcept {
  return std::find_if(spares_.begin(), spares_.end(), [&](const Spare& spare) {
    return spare.options == options && spare.session->record().lifecycle.state() == WorkerSession::State::ready;
  });
}

inline bool Spares::is_due() const noexcept {
  return !starting_ && !timer_ && spares_.size() < count_ && slots_.takes_changes();
}

inline void Spares::fill() {
  if (is_due()) starting_ = slots_.try_post([this] { start(); });
}

inline void Spares::fill_later() {
  if (is_due()) start_after(a_moment);
}

inline std::shared_ptr<WorkerSession> Spares::take(const Slot::Options& options) noexcept {
  const auto found = find(options);
  if (found == spares_.end()) return nullptr;
  auto session = found->session;
  spares_.erase(found);
  return session;
}

inline void Spares::renew() {
  slots_.retired().reserve(spares_.size());
  std::erase_if(spares_, [this](const Spare& spare) {
    if (spare.options == slots_.changes().latest_options()) return false;
    if (spare.session->record().lifecycle.state() != WorkerSession::State::ready) return false;  // when it is
    spare.session->drop();
    slots_.retired().add(spare.session);
    return true;
  });
  fill();
}

// ---- starting -------------------------------------------------------------------------------------------------------

inline void Spares::start() {
  std::shared_ptr<WorkerSession> session;
  try {
    if (!may_start()) return;
    session = put();
  } catch (...) {
    return start_failed(nullptr);
  }
  if (session) slots_.factory().spawn(session, [this, session](const std::exception_ptr&) { start_failed(session); });
}

/// It is tried again.
inline void Spares::start_failed(const std::shared_ptr<WorkerSession>& session) {
  const auto held = slots_.lock();
  if (slots_.stopping()) return;
  slots_.totals().count({}, DeathCause::failed_start);
  starting_ = false;
  if (session) retire(*session);
  start_after(supervisor_.died(Clock::now(), {}).delay);
}

/// False: start() is called again.
inline bool Spares::may_start() {
  if (slots_.options().launch != Launch::fork) return true;
  const Slot::Options options = [this] {
    const auto held = slots_.lock();
    return slots_.changes().latest_options();
  }();
  return slots_.forks().may_start(options, [this] { start(); });
}

/// Null if none is wanted any more.
inline std::shared_ptr<WorkerSession> Spares::put() {
  RetiredWorkers::Sessions over;
  std::shared_ptr<WorkerSession> session;
  {
    const auto held = slots_.lock();
    starting_ = slots_.takes_changes() && spares_.size() < count_;
    if (!starting_) return nullptr;
    slots_.retired().reserve(over);
    const Slot::Options options = slots_.changes().latest_options();
    spares_.reserve(spares_.size() + 1);
    session = slots_.factory().worker(options, nullptr);
    session->begin_start();  // under the mutex: a stop that comes now finds it started
    spares_.push_back({session, options});
    started_ = session;
    slots_.retired().take_over(over);
  }
  for (const auto& retired : over) retired->owner_destroyed();
  return session;
}

inline void Spares::start_after(Duration delay) {
  slots_.after(timer_, delay, [this] {
    const auto held = slots_.lock();
    timer_.reset();
    fill();
  });
}

/// False if it is none of them.
inline bool Spares::retire(const WorkerSession& session) {
  const auto found =
      std::find_if(spares_.begin(), spares_.end(), [&](const Spare& spare) { return spare.session.get() == &session; });
  if (found == spares_.end()) return false;
  slots_.retired().reserve(1);
  slots_.retired().add(found->session);
  spares_.erase(found);
  return true;
}

// ---- reports --------------------------------------------------------------------------------------------------------

inline void Spares::worker_ready(const WorkerSession& session) {
  if (is_starting(session)) starting_ = false;
  (void)supervisor_.proved_itself();
  renew();
}

inline void Spares::worker_exited(const WorkerSession& session, Supervisor::Death death) {
  if (is_starting(session)) starting_ = false;
  if (retire(session)) start_after(supervisor_.died(Clock::now(), death).delay);
}

}}}  // namespace drover::v1::detail
