#pragma once

#include <algorithm>
#include <new>
#include <utility>

#include <drover/error.hpp>
#include <drover/os/detail/environment.hpp>
#include <drover/pool/detail/slots.hpp>

/// How workers are started: all at first, and then one after another. Slots that come and go.
namespace drover { inline namespace v1 { namespace detail {

/// Throws Error if the context is destroyed.
inline asio::any_io_executor PoolSlots::prepare_start() {
  constexpr std::size_t events_per_replacement = 5;  // gave_up, restarting, recovered, replacing, fork_failed
  events_.reserve(events_per_replacement * (slots_.size() + 1));
  const auto executor = dispatcher_->executor();
  if (!executor) throw Error(Errc::not_running, "the io_context of this pool is destroyed");
  return *executor;
}

inline std::shared_ptr<WorkerSession> PoolSlots::make_worker(const Slot::Options& options, Slot* slot) {
  const auto executor = prepare_start();
  WorkerOptions own = *options;
  if (slot != nullptr)
    for (const auto& [name, value] : slot->environment) own.command.env[name] = value;
  else
    own.command.env[slot_variable] = std::nullopt;  // it may be that of this program
  auto session = WorkerSession::create(executor, std::move(own), dispatcher_, events_.sink(),
                                       {.takes_calls = slot != nullptr, .owns_dispatcher = false});
  session->supervise(weak_from_this(), slot != nullptr ? slot->at : no_slot,
                     slot != nullptr ? std::weak_ptr<void>(slots_[slot->at]) : std::weak_ptr<void>());
  session->recycle_after(changes_.answers_of_a_worker(), changes_.rss_limit());
  session->start_from(forks_.source(options));
  return session;
}

inline std::shared_ptr<WorkerSession> PoolSlots::make_fork_server(WorkerOptions options) {
  options.command.env[slot_variable] = std::nullopt;
  auto session = WorkerSession::create(prepare_start(), std::move(options), dispatcher_, events_.sink(),
                                       {.takes_calls = false, .owns_dispatcher = false, .is_fork_server = true});
  session->supervise(std::shared_ptr<WorkerSupervision>(shared_from_this(), &forks_), no_slot, {});
  return session;
}

inline bool PoolSlots::uses(const Slot::Options& options) const noexcept {
  return options == changes_.latest_options() ||
         std::any_of(slots_.begin(), slots_.end(), [&](const auto& slot) { return slot->options == options; });
}

// ---- at first -------------------------------------------------------------------------------------------------------

inline bool PoolSlots::start_first(std::size_t at) {
  Slot::Environment environment = environment_of(at);
  std::shared_ptr<WorkerSession> session;
  {
    const auto held = lock();
    if (first_start_.failed() || stopping_) return false;
    reserve(options_.size);
    Slot& slot = add(std::move(environment), changes_.latest_options());
    session = make_worker(slot.options, &slot);
    slot.session = session;
    slot.session_options = slot.options;
    slot.state.launched();
  }
  session->start(options_.start_timeout);
  return true;
}

inline std::shared_ptr<AsyncEvent> PoolSlots::await_fork_server() {
  if (options_.launch != Launch::fork) return nullptr;
  const auto settled = std::make_shared<AsyncEvent>();
  const Slot::Options options = [this] {
    const auto held = lock();
    return changes_.latest_options();
  }();
  return forks_.may_start(options, [settled] { settled->set(); }) ? nullptr : settled;
}

inline void PoolSlots::add_dormant_slots() {
  for (std::size_t at = options_.size; at < options_.max_size; ++at) {
    Slot::Environment environment = environment_of(at);
    const auto held = lock();
    if (first_start_.failed() || stopping_) return;
    if (at == options_.size) reserve(options_.max_size);
    add_dormant(std::move(environment));
  }
}

inline Slot::Environment PoolSlots::environment_of(std::size_t at) const {
  Slot::Environment environment = options_.slot_env ? options_.slot_env(at) : Slot::Environment();
  for (const auto& [name, value] : environment) {
    require_variable_name(name);
    require_no_nul(value, "the value of a variable of PoolOptions::slot_env");
  }
  return environment;
}

inline std::shared_ptr<AsyncEvent> PoolSlots::await_start_room() {
  const auto held = lock();
  return first_start_.await_room(slots_.size());
}

inline std::exception_ptr PoolSlots::end_start() {
  const auto held = lock();
  std::exception_ptr failure = first_start_.end();
  if (failure || stopping_) return failure;
  changes_.begin_watching();
  elasticity_.begin();
  spares_.fill();
  return nullptr;
}

// ---- one after another ----------------------------------------------------------------------------------------------

inline void PoolSlots::start_due(const std::shared_ptr<Slot>& slot) {
  {
    const auto held = lock();
    if (stopping_ || slot->removed) return;
    slot->timer.cancel();
    if (!starts_.begin(slot->at)) return;
  }
  launch(slot);
}

/// Starts the next worker that waits for it, after other handlers have run. If there is no memory for that, the end of
/// the next start tries again.
inline void PoolSlots::give_turn() noexcept {
  if (!try_post([this] { start_next(); })) starts_.forgo_turn();
}

inline void PoolSlots::start_next() {
  std::shared_ptr<Slot> next;
  {
    const auto held = lock();
    const auto at = starts_.next();
    if (stopping_ || !at) return;
    next = slots_[*at];
  }
  launch(next);
}

inline void PoolSlots::start_is_over(const Slot& slot) noexcept {
  if (starts_.settled(slot.at)) give_turn();
}

/// False: launch() is called again, once the fork server is ready. A spare worker needs none.
inline bool PoolSlots::may_launch(const std::shared_ptr<Slot>& slot) {
  {
    const auto held = lock();
    give_turn();  // others do not wait for this one
    if (may_take_spare(*slot) && spares_.has_ready(slot->options)) return true;
  }
  return may_start(*slot, [this, slot] { launch(slot); });
}

/// A failure before there is a process counts as a death.
inline void PoolSlots::launch(const std::shared_ptr<Slot>& slot) {
  std::shared_ptr<WorkerSession> session;
  try {
    if (!may_launch(slot)) return;
    session = put_worker(slot);
    if (session) session->spawn(options_.start_timeout);
  } catch (...) {
    const auto cause = std::current_exception();
    {
      const auto held = lock();
      if (stopping_ || slot->removed || (session && slot->session != session)) return;
      start_is_over(*slot);
      totals_.count({}, DeathCause::failed_start);
      const SlotState::Actions actions = slot->state.start_failed(Clock::now());
      if (!changes_.start_failed(*slot, slot->options, cause)) carry_out(*slot, actions);
      has_changed(cause);
    }
    complete_dropped_calls();
  }
}

/// Puts a worker into the slot: a spare one that is ready, or a new one, for which a process is to be spawned. Null if
/// none is to be spawned.
inline std::shared_ptr<WorkerSession> PoolSlots::put_worker(const std::shared_ptr<Slot>& slot) {
  Sessions over;
  std::shared_ptr<WorkerSession> session;
  {
    const auto held = lock();
    if (stopping_ || slot->removed) return nullptr;
    if (slot->dormant || !slot->state.awaits_start()) {
      start_is_over(*slot);
      return nullptr;
    }
    if (elasticity_.is_unwanted(*slot)) {
      Sessions none;
      put_to_sleep(slot->at, none);
      return nullptr;
    }
    retired_.reserve(over);
    if (may_take_spare(*slot)) session = spares_.take(slot->options);
    const bool is_spare = session != nullptr;
    if (!is_spare) {
      session = make_worker(slot->options, slot.get());
      session->begin_start();  // under the mutex: a stop that comes now finds it started
    }
    if (slot->session && !slot->growth) ++totals_.restarts;
    if (slot->session) retired_.add(slot->session);
    slot->session = session;
    slot->session_options = slot->options;
    slot->recycle_timer.cancel();
    slot->state.launched();
    retired_.take_over(over);
    if (is_spare) place_spare(*slot, *std::exchange(session, nullptr));
  }
  for (const auto& retired : over) retired->owner_destroyed();
  if (!session) dispatcher_->run_completions(true);
  return session;
}

inline void PoolSlots::place_spare(Slot& slot, WorkerSession& spare) {
  try {
    spare.take_slot(slot.at, std::weak_ptr<void>(slots_[slot.at]), slot.environment);
    worker_ready(spare);
  } catch (...) {  // no memory: it ends, and is replaced
    spare.drop();
  }
  spares_.fill_later();
}

// ---- slots that come and go -----------------------------------------------------------------------------------------

inline void PoolSlots::reserve(std::size_t size) {
  if (size > slots_.size()) starts_.resize(size);
  slots_.reserve(size);
  elasticity_.reserve(size);
  successors_.reserve(size);
}

inline Slot& PoolSlots::add(Slot::Environment environment, Slot::Options options) {
  slots_.push_back(std::make_shared<Slot>(slots_.size(), options_.restart, std::move(environment), std::move(options)));
  return *slots_.back();
}

inline void PoolSlots::remove_from(std::size_t size, Sessions& removed) {
  make_room_for_removed(slots_.size() - size, removed);
  retire_predecessors(size, slots_.size(), removed);
  while (slots_.size() > size) {
    const std::shared_ptr<Slot> slot = std::move(slots_.back());
    slots_.pop_back();
    close(*slot, removed);
  }
  starts_.resize(size);
  successors_.give_turns();
}

inline void PoolSlots::make_room_for_removed(std::size_t slots, Sessions& removed) {
  retired_.reserve(2 * slots);
  removed.reserve(removed.size() + 2 * slots + retired_.all().size());
}

/// Of those slots: they still drain.
inline void PoolSlots::retire_predecessors(std::size_t from, std::size_t to, Sessions& removed) {
  for (const auto& session : retired_.all()) {
    const auto slot = slot_of(*session);
    if (!slot || slot->at < from || slot->at >= to || session->record().lifecycle.has_exited()) continue;
    session->retire(options_.shutdown_grace);
    removed.push_back(session);
  }
}

/// The slot is no slot of the pool any more. There is room for its workers.
inline void PoolSlots::close(Slot& slot, Sessions& removed) {
  start_is_over(slot);
  const SlotState::Actions actions = slot.state.close();
  slot.removed = true;
  slot.timer.cancel();
  slot.recycle_timer.cancel();
  if (actions.retire) slot.session->retire(options_.shutdown_grace);
  if (slot.successor) slot.successor->drop();
  for (const auto& session : {slot.session, slot.successor}) {
    if (!session) continue;
    if (!session->record().lifecycle.has_exited()) removed.push_back(session);
    retired_.add(session);
  }
  successors_.forget(slot, slot.successor);
}

// ---- slots that sleep -----------------------------------------------------------------------------------------------

inline void PoolSlots::add_dormant(Slot::Environment environment) {
  add(std::move(environment), nullptr).dormant = true;
  ++dormant_;
}

inline void PoolSlots::wake(Slot& slot) {
  slot.options = changes_.options_of_a_new_worker(slot.at);
  slot.dormant = false;
  --dormant_;
  try {
    carry_out(slot, slot.state.replace(false));
  } catch (...) {
    slot.timer.cancel();
    slot.dormant = true;
    ++dormant_;
    throw;
  }
  elasticity_.changed(slot);
}

inline void PoolSlots::put_to_sleep(std::size_t at, Sessions& removed) {
  make_room_for_removed(1, removed);
  const std::shared_ptr<Slot> slot = slots_[at];
  const auto dormant = std::make_shared<Slot>(at, options_.restart, slot->environment, nullptr);
  dormant->dormant = true;
  retire_predecessors(at, at + 1, removed);
  slots_[at] = dormant;
  ++dormant_;
  close(*slot, removed);
  successors_.give_turns();
  elasticity_.reconsider();
}

}}}  // namespace drover::v1::detail
