drop table key_change_pruned;
drop table instance_epoch;
drop table instance;
