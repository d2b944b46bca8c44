//! The same scenarios on SQLite and on a real PostgreSQL server.

#![expect(clippy::unwrap_used, reason = "scenarios are tests, though the attribute is on what calls them")]

mod commits;
mod datasets;
mod people;
mod place;
mod run_lists;
mod runners;
mod tasks;

/// Makes a test of each scenario on SQLite, and one test that runs all of them on one PostgreSQL server.
macro_rules! scenarios {
    ($($module:ident::$name:ident),* $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test]
                async fn $name() {
                    let folder = tempfile::tempdir().unwrap();
                    let url = format!("sqlite:{}", folder.path().join("hub.db").display());
                    crate::$module::$name(crate::place::Place::new(url)).await;
                }
            )*
        }

        #[tokio::test]
        async fn every_scenario_on_postgresql() {
            let server = ds_tests::Postgres::start().unwrap();
            $(
                println!("{}::{}", stringify!($module), stringify!($name));
                $module::$name(place::Place::new(server.database(stringify!($name)).unwrap())).await;
            )*
        }
    };
}

scenarios! {
    people::users_sessions_and_keys,
    people::projects_and_members,
    people::a_removed_user_leaves_what_they_made,
    people::a_deleted_project_leaves_nothing_and_frees_its_name,
    people::settings_survive_a_restart,
    commits::an_upload_moves_the_head_or_is_refused,
    commits::the_newest_change_is_found_along_the_parents,
    commits::what_differs_between_two_commits,
    commits::facts_name_the_files_of_other_projects,
    datasets::a_dataset_is_kept_apart_from_projects_under_one_namespace,
    datasets::what_was_cloned_from_keeps_its_source,
    tasks::a_task_lives_once,
    tasks::a_queued_task_can_be_cancelled_taken_and_given_back,
    tasks::logs_are_appended_once_and_without_gaps,
    tasks::a_result_is_recorded_once_and_whole,
    tasks::a_result_on_an_old_base_stays_on_a_branch,
    tasks::of_many_at_once_each_result_is_recorded_once,
    tasks::a_run_that_is_known_keeps_its_first_record,
    tasks::of_calls_at_once_each_gets_its_own_answer,
    tasks::short_ids_name_one_thing_that_one_may_see,
    run_lists::pages_sorted_by_anything_have_each_run_once,
    run_lists::filters_are_met,
    run_lists::a_page_out_of_many,
    runners::a_token_registers_once,
    runners::a_removed_runner_leaves_its_name,
}
