#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace drover { inline namespace v1 { namespace detail {

/// The position of a link in a LinkChooser.
template <class Link>
struct ChooserHook {
  Link *previous = nullptr, *next = nullptr;
  bool known = false;         // add() was called
  bool used = false;          // it has had a call
  bool listed = false;        // it may be chosen
  bool ahead = false;         // listed for calls that are sent ahead
  std::size_t in_flight = 0;  // as last seen
};

/// Chooses the worker for a call: one of those with the fewest calls in flight. Links with equally many form a list,
/// the one that was used last in front. While fewer calls are in flight than there are cores, the one that was used
/// last is chosen: its caches are warm and it may still be awake. Beyond that the one that was used least recently is
/// chosen: otherwise a few workers would get all calls, and the tail latency would grow. A link that has had no call
/// yet comes first, so that each new worker soon shows whether it answers.
///
/// Pure: no I/O, no clock. Each operation takes amortized constant time. Link has a member
/// `ChooserHook<Link> chooser_hook`, `load()`, a Load, and `has_room_ahead()`.
template <class Link>
class LinkChooser {
 public:
  explicit LinkChooser(std::size_t cores) noexcept : cores_(std::max<std::size_t>(cores, 1)) {}

  /// Throws std::bad_alloc; then nothing has changed.
  void add(Link& link) {
    reserve(link);
    link.chooser_hook.known = true;
    ++size_;
    changed(link);
  }
  void remove(Link& link) noexcept {
    auto& hook = link.chooser_hook;
    if (!hook.known) return;
    unlist(link);
    in_flight_ -= hook.in_flight;
    --size_;
    hook = {};
  }

  /// Makes sure that changed() needs no memory after one more call. Throws std::bad_alloc.
  void reserve(const Link& link) {
    const std::size_t needed = link.load().in_flight + 2;
    if (levels_.size() < needed) levels_.resize(std::max(needed, 2 * levels_.size()));
  }
  /// The number of calls in flight of a link has changed: it was just used.
  void changed(Link& link) noexcept {
    auto& hook = link.chooser_hook;
    if (!hook.known) return;
    unlist(link);
    const auto load = link.load();
    hook.used = hook.used || load.in_flight != 0;
    in_flight_ = in_flight_ - hook.in_flight + load.in_flight;
    hook.in_flight = load.in_flight;
    hook.ahead = load.in_flight >= load.capacity;
    if (load.ready && (!hook.ahead || link.has_room_ahead())) list(link);
  }

  /// The link that was used last is chosen, however many calls are in flight.
  void use_few(bool on) noexcept { use_few_ = on; }

  /// Null if no link is ready and has room. Links that are not ready any more are dropped here.
  Link* choose() noexcept {
    while (Link* const link = unused_.last) {
      if (link->load().ready) return link;
      unlist(*link);
    }
    for (; lowest_ < levels_.size(); ++lowest_) {
      List& level = levels_[lowest_];
      while (Link* const link = use_few_ || in_flight_ < cores_ ? level.first : level.last) {
        if (link->load().ready) return link;
        unlist(*link);
      }
    }
    return nullptr;
  }

  /// For a call that no worker can take now: a worker to which it can be sent ahead. The one whose call is the newest:
  /// one that has been busy for long may be so for longer. Null if there is none.
  Link* choose_ahead() noexcept {
    while (Link* const link = ahead_.first) {
      if (link->has_room_ahead()) return link;
      unlist(*link);
    }
    return nullptr;
  }

  std::size_t size() const noexcept { return size_; }
  /// Calls in flight of all links.
  std::size_t in_flight() const noexcept { return in_flight_; }

 private:
  struct List {
    Link *first = nullptr, *last = nullptr;
  };

  List& list_of(const ChooserHook<Link>& hook) noexcept {
    if (hook.ahead) return ahead_;
    return hook.used ? levels_[hook.in_flight] : unused_;
  }
  void list(Link& link) noexcept {
    auto& hook = link.chooser_hook;
    List& level = list_of(hook);
    hook.listed = true;
    hook.previous = nullptr;
    hook.next = level.first;
    (level.first ? level.first->chooser_hook.previous : level.last) = &link;
    level.first = &link;
    if (hook.used && !hook.ahead) lowest_ = std::min(lowest_, hook.in_flight);
  }
  void unlist(Link& link) noexcept {
    auto& hook = link.chooser_hook;
    if (!std::exchange(hook.listed, false)) return;
    List& level = list_of(hook);
    (hook.previous ? hook.previous->chooser_hook.next : level.first) = hook.next;
    (hook.next ? hook.next->chooser_hook.previous : level.last) = hook.previous;
  }

  const std::size_t cores_;
  bool use_few_ = false;
  List unused_;               // links that have had no call
  List ahead_;                // links for choose_ahead()
  std::vector<List> levels_;  // [n]: the others, with n calls in flight
  std::size_t lowest_ = 0;    // no link is listed below
  std::size_t in_flight_ = 0;
  std::size_t size_ = 0;
};

}}}  // namespace drover::v1::detail
