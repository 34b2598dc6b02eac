#pragma once

#include <algorithm>
#include <stdexcept>
#include <utility>

#include <drover/error.hpp>
#include <drover/pool/detail/slots.hpp>

/// reload(), and what all changes share.
namespace drover { inline namespace v1 { namespace detail {

// ---- all changes ----------------------------------------------------------------------------------------------------

inline void PoolChanges::worker_ready(std::size_t at) {
  begin_age(at);
  if (const auto growth = std::exchange(slots_.slot(at).growth, nullptr))
    if (growth->one_is_ready() && growth == growth_ && grows()) end_growth(nullptr);
  advance();
}

inline bool PoolChanges::start_failed(std::size_t at, const Slot::Options& options, const std::exception_ptr& cause) {
  if (reaches(at) && reloads_.front()->made(options)) end_reload(reloads_.begin(), cause);
  const auto growth = slots_.slot(at).growth;
  if (!growth || growth != growth_ || !grows()) return false;
  Sessions removed;
  end_growth(cause);
  shrink(growth->from(), removed);
  return true;
}

inline void PoolChanges::advance() {
  std::erase_if(ended_, [](const auto& ended) { return ended->over()->try_set(); });
  if (growth_ && growth_->ended() && growth_->over()->try_set()) growth_.reset();
  while (!slots_.stopping() && !reloads_.empty() && advance(*reloads_.front())) {
    latest_ = reloads_.front()->options(*latest_);
    end_reload(reloads_.begin(), nullptr);
    slots_.renew_spares();
  }
}

inline void PoolChanges::end_all(const Cause& cause) noexcept {
  memory_timer_.reset();
  while (!reloads_.empty()) end_reload(reloads_.begin(), failure_of(cause));
  if (grows()) end_growth(failure_of(cause));
}

// ---- reload() -------------------------------------------------------------------------------------------------------

inline std::shared_ptr<Reload> PoolChanges::begin_reload(std::optional<Command> command) {
  if (command && command->program.empty())
    throw std::invalid_argument("the Command for reload() has no program; name one, or call reload() without one");
  const auto reload = std::make_shared<Reload>(std::move(command));
  const auto held = slots_.lock();
  if (!slots_.takes_changes()) throw Error(Errc::stopping, "the pool is being stopped");
  reloads_.push_back(reload);
  advance();
  return reload;
}

inline void PoolChanges::cancel(const std::shared_ptr<Reload>& reload) {
  const auto held = slots_.lock();
  const auto found = std::find(reloads_.begin(), reloads_.end(), reload);
  if (found == reloads_.end()) return;
  const std::size_t at = reload->slot();
  const bool under_way = reload->slot_begun() && at < slots_.size();
  end_reload(found, aborted());
  if (under_way) slots_.carry_out(at, slots_.slot(at).state.keep_worker());
  advance();
}

/// The reload that is under way replaces the worker of that slot.
inline bool PoolChanges::reaches(std::size_t at) const noexcept {
  return !reloads_.empty() && reloads_.front()->slot_begun() && reloads_.front()->slot() == at;
}

inline void PoolChanges::end_reload(Reloads::iterator at, std::exception_ptr failure) noexcept {
  Reload& reload = **at;
  if (failure && reload.slot_begun() && reload.slot() < slots_.size())
    slots_.slot(reload.slot()).options = reload.options_before();
  reload.end(std::move(failure));
  ended_.splice(ended_.end(), reloads_, at);
  std::erase_if(ended_, [](const auto& ended) { return ended->over()->try_set(); });
}

inline void PoolChanges::retired_exited(std::size_t at, const StopReport& report) {
  if (reaches(at)) reloads_.front()->add(report);
}

/// Takes all steps that can be taken now. True if the reload is complete.
inline bool PoolChanges::advance(Reload& reload) {
  for (; reload.slot() < slots_.size(); reload.end_slot()) {
    const std::size_t at = reload.slot();
    Slot& slot = slots_.slot(at);
    if (!reload.slot_begun()) {
      reload.begin_slot(slot.options);
      slot.options = reload.options(*latest_);
      slots_.carry_out(at, slot.state.replace(false));
    }
    const bool is_new = reload.made(slot.session_options);
    if (!is_new && slot.state.worker() != SlotState::Worker::none) slots_.carry_out(at, slot.state.replace(false));
    if (!is_new || slot.state.worker() != SlotState::Worker::ready || !slot.retired.expired()) return false;
  }
  return true;
}

}}}  // namespace drover::v1::detail
