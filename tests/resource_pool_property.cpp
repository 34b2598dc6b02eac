// Random sequences of every event of a pool, compared with a model, on a fake clock. DROVER_POOL_SEQUENCES and
// DROVER_POOL_SEED set their number and the first seed.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <gtest/gtest.h>
#include <iostream>
#include <iterator>
#include <map>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "support/resource_pool_driver.hpp"
#include "support/resource_pool_model.hpp"
#include "support/sanitizers.hpp"

namespace {

using namespace std::chrono_literals;
using pool_model::Driver;
using pool_model::Entry;
using pool_model::Generation;
using pool_model::Model;
using pool_model::Outcome;
using pool_model::require;
using pool_model::Rules;

enum class Op { acquire, drop, release, discard, cancel, expire, clear_key, clear_all, advance, factory, finalizer };
constexpr int op_count = 11;
const char* const op_names[op_count] = {"acquire",   "drop",      "release", "discard", "cancel",   "expire",
                                        "clear_key", "clear_all", "advance", "factory", "finalizer"};

/// The meaning of a step depends on the state when it is performed, so that any part of a sequence is a valid sequence.
struct Step {
  Op op;
  unsigned which;  // selects one of the candidates
  unsigned how;    // its outcome, its duration, whether it is cancelled
};

struct Sequence {
  Rules rules;
  std::vector<Step> steps;
};

constexpr unsigned keys = 5;

Sequence random_sequence(std::uint64_t seed, int length) {
  std::mt19937_64 random(seed);
  Sequence sequence;
  const std::chrono::milliseconds ttls[] = {0ms, 10ms, 10ms, 35ms};
  sequence.rules.ttl = ttls[random() % 4];
  if (random() % 2 == 0)
    sequence.rules.max_idle = random() % 4;
  else if (random() % 2 == 0)
    sequence.rules.shards = 3;
  sequence.rules.clear_piece = random() % 2 == 0 ? 1 : 64;
  // Each sequence prefers some steps, so that sequences reach different states.
  std::vector<double> weights{4, 2, 2, 1, 1, 0.5, 0.5, 0.1, 1.5, 4, 3};
  for (double& weight : weights) weight *= 0.2 + static_cast<double>(random() % 100) / 50;
  std::discrete_distribution<int> op(weights.begin(), weights.end());
  for (int i = 0; i < length; ++i)
    sequence.steps.push_back(
        {static_cast<Op>(op(random)), static_cast<unsigned>(random() % 1000), static_cast<unsigned>(random() % 1000)});
  return sequence;
}

template <class Map>
auto pick(const Map& map, unsigned which) {
  return std::next(map.begin(), static_cast<std::ptrdiff_t>(which % map.size()));
}

Outcome outcome(unsigned how) {
  return how % 8 == 0 ? Outcome::error : how % 8 == 1 ? Outcome::cancelled : Outcome::value;
}

/// Returns false if there is nothing that the step could act on.
bool perform(const Step& step, int id, Model& model, Driver& driver) {
  const int key = static_cast<int>(step.which % keys);
  switch (step.op) {
    case Op::acquire: model.acquire(id, key); return driver.acquire(id, key), true;
    case Op::drop: {
      if (model.leases.empty()) return false;
      const int lease = pick(model.leases, step.which)->first;
      model.release(lease);
      return driver.drop(lease), true;
    }
    case Op::release: {
      if (model.leases.empty()) return false;
      const int lease = pick(model.leases, step.which)->first;
      const bool cancelled = step.how % 4 == 0;
      model.release_and_wait(lease, id);
      if (cancelled) model.waiting[id].clear();
      return driver.release(lease, id, cancelled), true;
    }
    case Op::discard: {
      if (model.leases.empty()) return false;
      const int lease = pick(model.leases, step.which)->first;
      model.discard(lease);
      return driver.discard(lease), true;
    }
    case Op::cancel: {
      std::set<int> waiters;
      for (const auto& [k, e] : model.entries) {
        if (e.state == Entry::State::creating) waiters.insert(e.holders.begin(), e.holders.end());
        waiters.insert(e.queue.begin(), e.queue.end());
      }
      if (waiters.empty()) return false;
      const int waiter = *pick(waiters, step.which);
      model.cancel(waiter);
      return driver.cancel(waiter), true;
    }
    case Op::expire: model.expire(key, id); return driver.expire(key, id), true;
    case Op::clear_key: {
      if (!model.entries.contains(key)) {
        EXPECT_THROW((void)driver.impl().clear(key), std::out_of_range);
        return false;
      }
      model.clear(key, id);
      return driver.clear(key, id), true;
    }
    case Op::clear_all: {
      const bool cancelled = step.how % 4 == 0;
      model.clear(id);
      if (cancelled) model.waiting[id].clear();
      return driver.clear(id, cancelled), true;
    }
    case Op::advance: {
      const auto by = std::chrono::milliseconds(step.how % 25);
      model.advance(by);
      return driver.advance(by), true;
    }
    case Op::factory: {
      if (driver.creating.empty()) return false;
      const Generation of = pick(driver.creating, step.which)->first;
      model.factory_ends(of.key, outcome(step.how));
      return driver.end(driver.creating, of, outcome(step.how)), true;
    }
    case Op::finalizer: {
      if (driver.finalizing.empty()) return false;
      const Generation of = pick(driver.finalizing, step.which)->first;
      model.finalizer_ends(of);
      return driver.end(driver.finalizing, of, outcome(step.how)), true;
    }
  }
  return false;
}

/// Shards agree on the order of different times only.
bool same_order(Model& model, std::vector<int> idle) {
  if (model.rules().shards == 1) return idle == model.idle;
  const auto earlier = [&](int a, int b) { return model.entries[a].deadline < model.entries[b].deadline; };
  return std::is_sorted(idle.begin(), idle.end(), earlier) &&
         std::multiset<int>(idle.begin(), idle.end()) == std::multiset<int>(model.idle.begin(), model.idle.end());
}

void compare(Model& model, Driver& driver) {
  const auto counts = driver.impl().counts();
  require(counts.total == model.entries.size() + model.discarded.size(), "total_entries");
  require(counts.referenced == model.count(Entry::State::leased) + model.count_discarded(false), "referenced_entries");
  require(counts.pending ==
              model.count(Entry::State::idle) + model.count(Entry::State::finalizing) + model.count_discarded(true),
          "pending_cleanup");
  const auto pending = driver.impl().pending();
  require(pending.size() == counts.pending, "pending_cleanup() and its number");
  const auto first_idle = pending.end() - static_cast<std::ptrdiff_t>(model.idle.size());
  require(same_order(model, {first_idle, pending.end()}), "the order of the idle ones");
  std::multiset<int> finalizing;
  for (const auto& [key, e] : model.entries)
    if (e.state == Entry::State::finalizing) finalizing.insert(key);
  for (const auto& [of, d] : model.discarded)
    if (d.finalizing) finalizing.insert(of.key);
  require(std::multiset<int>(pending.begin(), first_idle) == finalizing, "the keys that are being finalized");

  require(driver.leases.size() == model.leases.size(), "who has got a lease");
  for (const auto& [id, of] : model.leases) {
    const auto lease = driver.leases.find(id);
    require(lease != driver.leases.end() && lease->second.reference.get()->key == of.key, "the lease of a key");
    const auto* const leased = lease->second.reference.get();
    require(leased->value->which == of, "the lease of another value");
    const auto entry = model.entries.find(of.key);
    const auto kept = model.discarded.find(of);
    const bool current = entry != model.entries.end() && entry->second.number == of.number &&
                         entry->second.state == Entry::State::leased;
    const bool good = current || (kept != model.discarded.end() && !kept->second.finalizing);
    require(good == !leased->cleared, "finalized while leased, and not by clear()");
  }
  require(driver.refused == model.refused, "who got an error");
  driver.refused.clear();
  model.refused.clear();
  require(driver.made == model.made, "factory calls");
  require(driver.finalized == model.finalized, "finalizer calls");
  std::erase_if(model.waiting, [&](const auto& item) {
    require((driver.done.erase(item.first) > 0) == item.second.empty(), "who waits for an end");
    return item.second.empty();
  });
  require(driver.done.empty(), "who waits for an end");
}

/// Empty if the sequence succeeded.
std::string run(const Sequence& sequence, bool verbose = false) {
  Model model(sequence.rules);
  Driver driver(sequence.rules);
  int id = 0;
  for (const Step& step : sequence.steps) {
    ++id;
    try {
      const bool performed = perform(step, id, model, driver);
      if (verbose && performed)
        std::cerr << "  " << id << ": " << op_names[static_cast<int>(step.op)] << " which=" << step.which % keys
                  << " how=" << step.how << '\n';
      if (performed) compare(model, driver);
    } catch (const std::exception& failure) {
      return std::string(failure.what()) + " (after step " + std::to_string(id) + ", " +
             op_names[static_cast<int>(step.op)] + ")";
    }
  }
  return {};
}

/// Removes the steps that are not needed for the failure.
Sequence shorten(Sequence sequence) {
  for (std::size_t part = sequence.steps.size() / 2; part > 0;) {
    bool shorter = false;
    for (std::size_t at = 0; at + part <= sequence.steps.size();) {
      Sequence without = sequence;
      const auto from = without.steps.begin() + static_cast<std::ptrdiff_t>(at);
      without.steps.erase(from, from + static_cast<std::ptrdiff_t>(part));
      if (run(without).empty()) {
        at += part;
      } else {
        sequence = std::move(without);
        shorter = true;
      }
    }
    if (!shorter || part > sequence.steps.size()) part = std::min(part, sequence.steps.size() + 1) / 2;
  }
  return sequence;
}

std::uint64_t setting(const char* name, std::uint64_t otherwise) {
  const char* const value = std::getenv(name);
  return value != nullptr ? std::strtoull(value, nullptr, 10) : otherwise;
}

// Four parts, which CTest can run in parallel.
class ResourcePoolProperty : public testing::TestWithParam<int> {};

TEST_P(ResourcePoolProperty, RandomSequencesMatchTheModel) {
  const std::uint64_t sequences = setting("DROVER_POOL_SEQUENCES", support::sanitized ? 2'000 : 10'000) / 4;
  const std::uint64_t first = setting("DROVER_POOL_SEED", 1) + static_cast<std::uint64_t>(GetParam()) * sequences;
  for (std::uint64_t seed = first; seed < first + sequences; ++seed) {
    const Sequence sequence = random_sequence(seed, 200);
    const std::string failure = run(sequence);
    if (failure.empty()) continue;
    const Sequence shortened = shorten(sequence);
    std::cerr << "seed " << seed << ": " << failure << "\nshortened to " << shortened.steps.size() << " steps, ttl "
              << shortened.rules.ttl / 1ms << " ms, max_idle "
              << (shortened.rules.max_idle ? std::to_string(*shortened.rules.max_idle) : "none") << ":\n";
    const std::string why = run(shortened, true);
    FAIL() << "seed " << seed << ": " << why;
  }
}

INSTANTIATE_TEST_SUITE_P(Quarter, ResourcePoolProperty, testing::Range(0, 4));

}  // namespace
