"""Kafka requests that aiokafka does not speak, as its protocol classes. Imports aiokafka only."""
