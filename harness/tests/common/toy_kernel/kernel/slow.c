int slow;
