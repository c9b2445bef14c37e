drop table key_change_pruned;
