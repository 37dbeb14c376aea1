#include "step.hpp"

#include <algorithm>
#include <atomic>
#include <functional>
#include <thread>

#include "openmp.hpp"
#include "pieces.hpp"
#include "rows.hpp"
#include "threads.hpp"
#include "workers.hpp"

namespace rmsprop_fast {
namespace {

void sum_up_parts(const Work& work, Walk& walk, std::size_t begin, std::size_t end) {
  walk.parts(begin, end, [&](std::size_t index, const Leaf& leaf, std::size_t from, std::size_t to) {
    work.gradient.sum_up(index, leaf, work.kernels, from, to);
  });
}

// False if the step is to be skipped.
bool conclude(const Work& work) {
  if (work.norm)
    work.gradient.conclude(work.leaves, *work.norm);
  else
    work.gradient.conclude(work.leaves, work.kernels);
  return !work.hyper.skip_nonfinite || work.gradient.is_finite();
}

// Where the next block begins, if blocks must not be cut.
std::size_t block_begin(const Leaf& leaf, std::size_t element) {
  if (leaf.hyper->state_dtype != StateDtype::uint8 || leaf.touched) return element;  // which is the first of its row
  const std::size_t width = leaf.blocks.width, column = element % width;
  return element - column + std::min((column + code_block - 1) / code_block * code_block, width);
}

void update_parts(const Work& work, Walk& walk, std::size_t begin, std::size_t end) {
  walk.parts(begin, end, [&](std::size_t index, const Leaf& leaf, std::size_t from, std::size_t to) {
    int with = leaf.hyper->variant;
    if (leaf.lr) with |= variant::options | variant::lr_per_element;
    if (leaf.m) with |= variant::centered;
    if (leaf.b) with |= variant::momentum;
    if (leaf.hyper->rowwise && leaf.touched->width > 1)
      with |= variant::options | variant::rowwise;  // else all the same
    const Factors factors{
        leaf.hyper->needs_gradient ? work.gradient.multiplier(index) : leaf.hyper->unclipped_multiplier,
        rho_in_step(*leaf.hyper, leaf.steps + 1)};
    const auto type = static_cast<int>(compute_type(leaf.element));
    const bool is_compact = type == static_cast<int>(Element::float32) &&
                            (leaf.hyper->is_compact || (leaf.element == Element::bfloat16 && with == 0));
    const Kernel update = is_compact ? work.kernels.update_compact[with] : work.kernels.update[type][with];
    if (leaf.touched)
      update_rows(leaf, factors, update, work.kernels.scale[type], from, to);
    else
      update(leaf, factors, block_begin(leaf, from), block_begin(leaf, to));
  });
}

std::size_t leaf_size(const Leaf& leaf) { return leaf.size; }

bool run_serially(const Work& work) {
  constexpr auto all = static_cast<std::size_t>(-1);
  if (work.hyper.needs_gradient) {
    if (Walk walk(work.leaves, gradient_size); !work.norm) sum_up_parts(work, walk, 0, all);
    if (!conclude(work)) return false;
  }
  Walk walk(work.leaves, leaf_size);
  update_parts(work, walk, 0, all);
  return true;
}

// When the last piece of the gradient is summed up, whoever did it concludes, and all go on.
bool run_on_threads(const Work& work, int seats, int threads) {
  const std::size_t to_sum = work.hyper.needs_gradient && !work.norm ? Walk(work.leaves, gradient_size).length() : 0;
  if (work.hyper.needs_gradient && to_sum == 0 && !conclude(work)) return false;
  thread_local Pieces of_sums, of_updates;  // a caller's own, so that a step allocates nothing
  Pieces &sums = of_sums, &updates = of_updates;
  updates.share_out(Walk(work.leaves, leaf_size).length(), seats);
  std::atomic<std::size_t> unfinished = 0;  // sums, and the conclusion
  bool goes_on = true;
  if (to_sum > 0) {
    sums.share_out(to_sum, seats);
    unfinished = sums.count() + 1;
  }

  const auto take_seat = [&](int seat) {
    if (unfinished.load(std::memory_order_acquire) > 0) {
      Walk walk(work.leaves, gradient_size);
      sums.take(seat, [&](std::size_t begin, std::size_t end) {
        sum_up_parts(work, walk, begin, end);
        if (unfinished.fetch_sub(1, std::memory_order_acq_rel) > 2) return;
        goes_on = conclude(work);
        unfinished.store(0, std::memory_order_release);
      });
      while (unfinished.load(std::memory_order_acquire) > 0) std::this_thread::yield();
    }
    if (!goes_on) return;
    Walk walk(work.leaves, leaf_size);
    updates.take(seat, [&](std::size_t begin, std::size_t end) { update_parts(work, walk, begin, end); });
  };
  if (work.pool == Pool::openmp && openmp::can_run(threads)) {
    const auto take_part = [&](int thread) {
      if (thread < seats) take_seat(thread);
    };
    openmp::run_region(threads, std::ref(take_part));
  } else {
    workers::run_seats(seats, std::ref(take_seat));
  }
  return goes_on;
}

}  // namespace

Outcome step(const Work& work) {
  const int seats = threads::for_step(work.elements, work.most_threads);
  const bool is_taken =
      seats == 1 ? run_serially(work) : run_on_threads(work, seats, std::min(threads::most(), work.most_threads));
  Outcome outcome{is_taken, {}};
  if (work.hyper.needs_gradient) outcome.grad_norm = work.gradient.norm();
  return outcome;
}

}  // namespace rmsprop_fast
