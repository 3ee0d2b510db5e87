package main

import (
	"context"
	"time"
)

// The topics of the saga.
const (
	taskCreated   = "task-created"
	taskCompleted = "task-completed"
	taskDeleted   = "task-deleted"
	taskScheduled = "task-scheduled"
	taskRejected  = "task-rejected"
)

// slot is a stretch of time that the scheduler keeps for a todo, in UTC.
type slot struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// content is what an event tells of a todo. Which fields are set depends on its topic.
type content struct {
	TodoID string `json:"todoId"`
	// Title and Due come with task-created.
	Title string    `json:"title,omitempty"`
	Due   time.Time `json:"due,omitzero"`
	// Slot comes with task-scheduled, Reason with task-rejected.
	Slot   *slot  `json:"slot,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// delivery is one attempt of the broker to hand over an event.
type delivery struct {
	// ID is the CloudEvent's id.
	ID   string  `json:"id"`
	Data content `json:"data"`
}

// handler does what an event asks for. After an error the event comes again.
type handler func(context.Context, delivery) error
