package peer

import "github.com/kioo-dev/kioo/pkg/access"

// ClaimHeader is what a member says of its client when it asks another member for content.
const ClaimHeader = "Kioo-Claim"

// For gives the client that asks with a claim. Without one nothing is said of whom content is for. No client stays
// none.
func (c *Client) For(claim access.Claim) *Client {
	if c == nil {
		return nil
	}
	claiming := *c
	claiming.claim = claim
	return &claiming
}
