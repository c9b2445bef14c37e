alter table audit_event
    drop constraint audit_event_actor_legal,
    drop constraint audit_event_action_legal;
drop function refuse_row() cascade;
