// Package clienttest holds nothing but tests: real clients pull through a real Kioo from a real registry.
//
// What the parts of Kioo do by themselves is tested with them; here it is only what clients see and upstream is asked.
package clienttest
