//! What every driver guarantees: one suite, run over each of them.
//!
//! A new driver writes a function that makes a [`Setup`] and adds a line to [`conformance!`].

#[cfg(feature = "amqp")]
mod amqp;
#[cfg(feature = "amqp")]
mod amqp_faults;
#[cfg(feature = "amqp")]
mod amqp_schedules;
#[cfg(feature = "amqp")]
mod amqp_wire;
mod backend;
mod broker;
mod chords;
mod claims;
mod dead_letters;
mod keys;
mod limits;
#[cfg(feature = "amqp")]
mod rabbit;
#[cfg(feature = "redis")]
mod redis_backend;
#[cfg(feature = "redis")]
mod redis_broker;
#[cfg(feature = "redis")]
mod redis_broker_faults;
#[cfg(feature = "redis")]
mod redis_direct;
#[cfg(feature = "redis")]
mod redis_fanout;
#[cfg(feature = "redis")]
mod redis_faults;
#[cfg(feature = "redis")]
mod redis_parking;
mod schedules;
#[cfg(feature = "redis")]
mod servers;
mod setup;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "sqlite")]
mod sqlite_faults;
#[cfg(feature = "sqlite")]
mod sqlite_processes;
mod topics;

macro_rules! conformance {
    ($($driver:ident: $make:expr;)*) => {
        $(mod $driver {
            suite!($make; broker:
                a_batch_comes_back_in_order_with_everything_it_had,
                a_higher_priority_comes_first_and_equal_ones_in_order,
                a_busy_queue_does_not_starve_another,
                an_acknowledged_message_is_gone,
                a_requeued_message_goes_behind_everything_of_its_priority,
                a_released_message_comes_back_first,
                a_parked_message_comes_when_it_is_due_and_not_before,
                a_claim_that_waits_wakes_when_a_parked_message_is_due,
                a_claimed_message_can_be_parked,
                a_dead_letter_keeps_its_message_and_its_reason,
                a_message_that_is_not_in_the_store_any_more_can_be_buried,
                a_message_that_crashes_too_often_is_dead,
                purge_removes_ready_and_parked_but_not_claimed,
                queues_are_counted,
                a_claim_that_waits_wakes_by_a_publish,
                set_queues_changes_what_is_taken,
                a_broadcast_reaches_all_who_listen_and_only_those,
                a_reply_reaches_the_inbox_it_is_for_and_no_other,
                what_is_recalled_is_due_now,
                what_may_still_be_run_is_searched_for_texts,
                sweep_keeps_what_lives,
            );
            suite!($make; claims:
                credit_bounds_the_count,
                credit_bounds_the_bytes_but_gives_at_least_one,
                two_consumers_never_get_the_same_message,
                an_expired_lease_gives_claims_back_in_order,
                a_renewed_lease_is_kept,
                a_lost_lease_is_told_and_its_commits_are_stale,
                an_old_fence_is_stale,
                a_consumer_dropped_without_goodbye_gives_back_to_its_namesake,
                a_begun_claim_of_a_dead_consumer_counts_one_crash,
                what_may_run_only_once_comes_again_with_a_crash_however_its_consumer_ends,
                what_may_run_only_once_can_be_acknowledged_and_given_back,
                closing_gives_back_in_order_and_counts_nothing,
                a_closed_consumer_refuses_and_its_waiting_claim_ends,
                a_commit_publishes_stores_and_settles_together,
                a_stale_commit_does_nothing_at_all,
                keep_holds_the_claim,
                a_dropped_claim_loses_nothing,
            );
            suite!($make; backend:
                a_watch_sees_what_a_commit_stores,
            );
            suite!($make; dead_letters:
                dead_letters_are_found_by_all_that_a_filter_names,
                dead_letters_are_counted_with_the_age_of_the_oldest,
                a_dead_letter_is_published_again_once_and_is_gone,
                a_dropped_dead_letter_is_gone,
                dead_letters_beyond_the_limits_go_the_oldest_first,
                a_failure_is_stored_and_buried_in_one_commit,
                a_pause_is_kept_until_it_is_taken_back,
                only_the_newest_results_of_a_kind_are_kept,
                a_commit_keeps_only_the_newest_results_of_a_kind,
            );
            suite!($make; schedules:
                one_at_a_time_holds_a_schedule,
                a_due_moment_is_sent_once,
                one_of_many_at_once_sends_a_moment,
                only_the_holder_sends,
                a_moment_may_be_noted_and_nothing_sent,
                what_users_change_is_kept_and_taken_back,
                who_takes_over_finds_the_last_moments,
                an_old_holder_sends_nothing,
                firing_renews_the_lease,
            );
            suite!($make; topics:
                each_bound_queue_gets_what_fits_once_while_nobody_consumes,
                what_is_given_back_goes_to_its_own_queue_alone,
                who_binds_anew_gets_nothing_of_what_it_wants_no_more,
                an_event_can_be_sent_with_a_commit,
                a_subscription_hears_what_is_sent_while_it_listens,
                a_stream_is_read_on_after_a_cursor_with_nothing_twice_or_left_out,
                a_stale_commit_adds_nothing_to_the_stream,
                whoever_comes_too_late_is_told_of_the_gap,
                a_reader_that_waits_wakes_when_something_comes,
            );
        })*
    };
}

/// The part of the suite for stores that keep broadcasts for those who are out of reach for a while.
macro_rules! kept_broadcasts {
    ($($module:ident: $make:expr;)*) => {
        $(mod $module {
            suite!($make; broker:
                a_broadcast_that_is_over_is_not_heard,
            );
        })*
    };
}

/// The part of the suite that needs no broker.
macro_rules! results {
    ($make:expr) => {
        mod results {
            suite!($make; backend:
                a_record_is_read_as_it_was_stored,
                a_record_may_be_of_any_bytes,
                success_is_final_and_nothing_else_is,
                a_task_that_was_aborted_has_not_just_started,
                an_expired_record_is_gone,
                a_forgotten_record_is_gone,
                a_watch_gives_first_the_present_and_then_changes,
                two_watches_of_one_id_both_wake,
                a_watch_does_not_tell_the_same_twice,
                what_is_stored_already_comes_in_the_order_of_storing_or_of_asking,
                a_group_is_read_as_it_was_saved_last,
                an_expired_group_is_gone,
                a_forgotten_group_is_gone_and_results_stay,
                a_value_is_read_as_it_was_kept_last_until_it_is_deleted,
                an_expired_value_is_gone,
            );
        }
    };
}

/// The part of the suite for stores that count chords.
macro_rules! chords {
    ($($module:ident: $make:expr;)*) => {
        $(mod $module {
            suite!($make; chords:
                the_last_part_has_the_claim_and_all_are_gathered_in_order,
                a_part_without_an_index_comes_last,
                parts_of_many_chords_are_counted_in_one_batch,
                a_chord_without_progress_is_told_of_until_something_is_counted,
                a_chord_that_is_being_ended_or_over_is_not_told_of,
                a_chord_that_is_looked_at_is_not_told_of_before_its_next_look,
                a_part_counts_once_and_as_it_was_first,
                parts_that_come_before_the_size_is_known_are_counted,
                a_failed_part_ends_the_chord_at_once,
                the_part_that_has_the_claim_takes_it_over_from_its_dead_worker,
                a_failed_part_that_comes_again_still_ends_its_chord,
                a_claim_expires_and_can_be_held_longer,
                an_expired_claim_that_nobody_took_can_be_held_again,
                what_comes_after_the_end_counts_for_nothing,
                a_chord_can_grow,
                saying_the_size_again_changes_nothing,
                a_chord_is_forgotten_after_its_time,
                a_thousand_parts_are_counted_and_gathered,
                a_body_and_the_end_of_its_chord_are_one_step,
                a_lost_claim_of_a_message_ends_no_chord,
            );
        })*
    };
}

/// The part of the suite for stores that keep keys, beside their messages and beside their results.
macro_rules! keys {
    ($($module:ident: $make:expr;)*) => {
        $(mod $module {
            suite!($make; keys:
                one_of_many_calls_at_once_is_sent,
                an_attempt_whose_answer_got_lost_is_the_same_call,
                a_commit_frees_the_key_of_its_call_and_no_other,
                a_stale_commit_frees_nothing,
                a_key_runs_out_unless_it_is_renewed,
                debounced_calls_share_an_id_and_the_last_is_run,
                one_at_a_time_has_the_turn,
                a_reservation_keeps_others_waiting_until_it_is_confirmed,
                a_message_that_comes_confirms_its_reservation,
                a_reservation_that_lapsed_is_taken_over_and_its_message_not_run,
                a_message_whose_key_is_another_s_by_now_runs_unless_it_lapsed,
                a_debounced_call_counts_when_it_is_confirmed,
                one_at_a_time_has_a_lock_and_its_number_grows,
                of_many_at_once_one_gets_the_lock,
            );
        })*
    };
}

/// The part of the suite for stores that keep limits of all workers.
macro_rules! limits {
    ($($module:ident: $make:expr;)*) => {
        $(mod $module {
            suite!($make; limits:
                no_more_run_than_allowed_and_each_end_lets_one_in,
                what_is_said_or_asked_twice_counts_once,
                keys_and_limits_are_each_for_themselves,
                a_turn_is_of_all_limits_or_of_none,
                a_call_gives_no_more_turns_than_it_says,
                turns_of_a_worker_that_died_come_back_with_its_lease,
                a_worker_that_is_heard_of_keeps_its_turns,
                a_worker_that_goes_leaves_its_turns_at_once,
                a_start_that_may_have_happened_counts_when_its_worker_is_gone,
                a_turn_given_back_unused_is_no_start,
                a_start_counts_from_when_it_was_seen,
                no_window_has_more_starts_and_nearly_all_are_used,
                a_line_is_kept_in_order_and_who_gets_a_turn_leaves_it,
                who_asks_for_nothing_learns_whether_there_is_something,
                the_bell_rings_when_a_turn_comes_back_that_someone_waits_for,
                the_broker_keeps_limits_too,
            );
        })*
    };
}

macro_rules! suite {
    ($make:expr; $module:ident: $($name:ident,)*) => {
        suite!($make; $module as $module: $($name,)*);
    };
    ($make:expr; $module:ident as $named:ident: $($name:ident,)*) => {
        mod $named {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    crate::setup::in_time(crate::$module::$name($make)).await;
                }
            )*
        }
    };
}

conformance! {
    memory: crate::setup::memory();
}
kept_broadcasts! {
    memory_broadcasts: crate::setup::memory();
}
mod memory_results {
    results!(crate::setup::memory());
}
chords! {
    memory_chords: crate::setup::memory();
}
keys! {
    memory_keys: crate::setup::memory();
}
limits! {
    memory_limits: crate::setup::memory();
}

#[cfg(feature = "sqlite")]
conformance! {
    sqlite_inline: crate::setup::sqlite(celeriac::driver::Threading::Inline);
    sqlite_dedicated: crate::setup::sqlite(celeriac::driver::Threading::Dedicated);
}
#[cfg(feature = "sqlite")]
kept_broadcasts! {
    sqlite_inline_broadcasts: crate::setup::sqlite(celeriac::driver::Threading::Inline);
    sqlite_dedicated_broadcasts: crate::setup::sqlite(celeriac::driver::Threading::Dedicated);
}
#[cfg(feature = "sqlite")]
mod sqlite_inline_results {
    results!(crate::setup::sqlite(celeriac::driver::Threading::Inline));
}
#[cfg(feature = "sqlite")]
mod sqlite_dedicated_results {
    results!(crate::setup::sqlite(celeriac::driver::Threading::Dedicated));
}
#[cfg(feature = "sqlite")]
limits! {
    sqlite_limits: crate::setup::sqlite(celeriac::driver::Threading::Dedicated);
}
#[cfg(feature = "sqlite")]
chords! {
    sqlite_inline_chords: crate::setup::sqlite(celeriac::driver::Threading::Inline);
    sqlite_dedicated_chords: crate::setup::sqlite(celeriac::driver::Threading::Dedicated);
}

#[cfg(feature = "sqlite")]
keys! {
    sqlite_inline_keys: crate::setup::sqlite(celeriac::driver::Threading::Inline);
    sqlite_dedicated_keys: crate::setup::sqlite(celeriac::driver::Threading::Dedicated);
}
#[cfg(feature = "redis")]
keys! {
    redis_keys: crate::setup::redis();
}

#[cfg(feature = "redis")]
conformance! {
    redis: crate::setup::redis();
}
#[cfg(feature = "redis")]
mod redis_results {
    results!(crate::setup::redis());
}
#[cfg(feature = "redis")]
limits! {
    redis_limits: crate::setup::redis();
}
#[cfg(feature = "redis")]
chords! {
    redis_chords: crate::setup::redis();
}

// What AMQP cannot promise, and where it is tested in its own way (`amqp`):
//
// - leases by a clock: a claim belongs to a channel (`channel_loss`), a schedule to a connection (`amqp_schedules`);
// - moments by a clock of ours: the server's delay queues count in real time (`delay`);
// - a commit with results, or one that is a transaction: `rpc://` is another store;
// - a crash counted for a worker that died as a whole, and a crashed message at the head of its queue;
// - counts of what is claimed or parked, a purge of what is parked, and an end to a broadcast before Celery's own;
// - which of two queues a server serves first, and the order of messages that are released one by one while more may
//   be delivered: the first of them comes back at once;
// - properties of any type, which only an envelope of our own can hold (`messages`);
// - a result that can be read the moment it was stored.
#[cfg(feature = "amqp")]
mod rabbitmq {
    suite!(crate::rabbit::setup(); broker:
        an_acknowledged_message_is_gone,
        a_requeued_message_goes_behind_everything_of_its_priority,
        a_dead_letter_keeps_its_message_and_its_reason,
        a_message_that_is_not_in_the_store_any_more_can_be_buried,
        a_claim_that_waits_wakes_by_a_publish,
        set_queues_changes_what_is_taken,
        a_broadcast_reaches_all_who_listen_and_only_those,
        a_reply_reaches_the_inbox_it_is_for_and_no_other,
    );
    suite!(crate::rabbit::priorities(); broker as priorities:
        a_higher_priority_comes_first_and_equal_ones_in_order,
    );
    suite!(crate::rabbit::setup(); claims:
        credit_bounds_the_count,
        credit_bounds_the_bytes_but_gives_at_least_one,
        two_consumers_never_get_the_same_message,
        a_renewed_lease_is_kept,
        an_old_fence_is_stale,
        a_consumer_dropped_without_goodbye_gives_back_to_its_namesake,
        closing_gives_back_in_order_and_counts_nothing,
        a_closed_consumer_refuses_and_its_waiting_claim_ends,
        a_dropped_claim_loses_nothing,
    );
    suite!(crate::rabbit::setup(); dead_letters:
        dead_letters_are_found_by_all_that_a_filter_names,
        dead_letters_are_counted_with_the_age_of_the_oldest,
        a_dead_letter_is_published_again_once_and_is_gone,
        a_dropped_dead_letter_is_gone,
        dead_letters_beyond_the_limits_go_the_oldest_first,
        a_pause_is_kept_until_it_is_taken_back,
    );
    suite!(crate::rabbit::setup(); schedules:
        one_at_a_time_holds_a_schedule,
        a_due_moment_is_sent_once,
        one_of_many_at_once_sends_a_moment,
        only_the_holder_sends,
        a_moment_may_be_noted_and_nothing_sent,
        what_users_change_is_kept_and_taken_back,
        who_takes_over_finds_the_last_moments,
    );
    suite!(crate::rabbit::setup(); backend:
        a_watch_gives_first_the_present_and_then_changes,
        two_watches_of_one_id_both_wake,
        a_watch_does_not_tell_the_same_twice,
    );
    suite!(crate::rabbit::setup(); topics:
        each_bound_queue_gets_what_fits_once_while_nobody_consumes,
        what_is_given_back_goes_to_its_own_queue_alone,
        who_binds_anew_gets_nothing_of_what_it_wants_no_more,
        a_subscription_hears_what_is_sent_while_it_listens,
    );
}
